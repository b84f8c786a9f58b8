"""Answers without what the OpenAPI document promises are reported, and make no check crash."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specimen import Specimen

from chaos.checker.answer_shapes import AttemptShape, ErrorShape, EventShape, TaskShape
from chaos.checker.verdict import judge
from chaos.history.history import History
from chaos.history.records import Op, Record
from chaos.scenario.vocabulary import LIVENESS, SAFETY
from holdfast.model.lifecycle import Reason

LIMITS = dict.fromkeys(LIVENESS, 0.5)
OPENAPI = Path(__file__).parents[1] / "unit" / "golden" / "openapi.json"


def talkative() -> list[Record]:
    """Return a run whose clients asked for everything, with every kind of answer."""
    run = Specimen(plan={"expect": {"always": list(SAFETY), "eventually": LIMITS}})
    life = run.submit("a", effect="external").submit_again().submit_again(other=True).dispatch()
    life.claim().call_out().end(Reason.FAILED).dispatch().read().claim().cancel().succeed().cancel()
    life.read().read_events().retry()
    run.submit("b", answer="info").cancel().read()
    dead = run.submit("c", max_attempts=1).dispatch().claim().end(Reason.FAILED)
    dead.retry().dispatch().claim().succeed()
    run.walk(2)
    run.complete(run.op("get", {"task_id": "unknown"}), "ok", {"state": None, "status": 404})
    unavailable = {"status": 503, "problem": "unavailable"}
    run.complete(run.op("cancel", {"task_id": life.task_id}), "fail", unavailable)
    return run.all_records()


RECORDS = talkative()
COMPLETIONS = [
    n for n, r in enumerate(RECORDS) if isinstance(r, Op) and r.type != "invoke" and r.value
]
JSON = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10**20),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.sampled_from(["SUCCEEDED", "2026-01-09T10:00:01Z", "2026-01-09", "cancelled"]),
    st.just([]),
    st.just({}),
    st.just([{}]),
    st.just({"id": 1}),
)


def corrupted(draw: st.DataObject, value: dict[str, Any]) -> dict[str, Any]:
    """Drop or replace one member of a value, at any depth."""
    value = copy.deepcopy(value)
    place: Any = value
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = draw.draw(st.sampled_from(list(keys)))
        if place[key] and isinstance(place[key], dict | list) and draw.draw(st.booleans()):
            place = place[key]
            continue
        if draw.draw(st.booleans()):
            del place[key]
        else:
            place[key] = draw.draw(JSON)
        return value


def test_talkative_run_is_well_formed() -> None:
    judgement = judge(History(RECORDS))
    assert "S22" not in {violation.invariant for violation in judgement.violations}
    assert not [doubt for doubt in judgement.doubts if "malformed" in doubt]


@settings(max_examples=150)
@given(st.data())
def test_no_corrupted_completion_makes_a_check_crash(data: st.DataObject) -> None:
    records = list(RECORDS)
    for number in data.draw(st.lists(st.sampled_from(COMPLETIONS), min_size=1, max_size=3)):
        record = records[number]
        assert isinstance(record, Op)
        if record.value:
            records[number] = replace(record, value=corrupted(data, record.value))
    judgement = judge(History(records))
    assert not [doubt for doubt in judgement.doubts if "crashed" in doubt]


def with_answer(op: str, **changes: Any) -> History:
    """Change members of the first answer to this operation; None drops one."""

    number = next(n for n in COMPLETIONS if getattr(RECORDS[n], "op", "") == op)
    record = RECORDS[number]
    assert isinstance(record, Op)
    value = {k: v for k, v in (record.value | changes).items() if v is not None}
    return History([*RECORDS[:number], replace(record, value=value), *RECORDS[number + 1 :]])


@pytest.mark.parametrize(
    ("op", "changes", "message"),
    [
        ("submit", {"task": None}, "task: Field required"),
        ("submit", {"task": {"id": "x"}}, "task.name: Field required"),
        ("submit", {"task_id": None}, "task_id: Field required"),
        ("submit", {"key": "another"}, "key is not that of the request"),
        ("get", {"task": {}}, "task.id: Field required"),
        ("cancel", {"task": None}, "task: Field required"),
        ("events", {"events": [{"seq": 1}]}, "events.0.at: Field required"),
        ("list", {"tasks": "all"}, "tasks: Input should be a valid list"),
    ],
)
def test_malformed_answer_violates_s22(op: str, changes: dict[str, Any], message: str) -> None:
    judgement = judge(with_answer(op, **changes))
    assert judgement.verdict == "false"
    found = [v.message for v in judgement.violations if v.invariant == "S22"]
    assert len(found) == 1
    assert found[0].endswith(f"is not as documented: {message}")


def test_malformed_outcome_that_the_client_made_up_is_a_doubt() -> None:
    judgement = judge(with_answer("submit", status=503, task={"type": "x:unavailable"}))
    assert "S22" not in {violation.invariant for violation in judgement.violations}
    (doubt,) = [each for each in judgement.doubts if "malformed" in each]
    assert doubt.endswith("task.id: Field required (503 recorded as ok instead of info)")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Task", TaskShape),
        ("Attempt", AttemptShape),
        ("TaskError", ErrorShape),
        ("TaskEvent", EventShape),
    ],
)
def test_shapes_have_every_member_of_the_openapi_document(name: str, shape: Any) -> None:
    schemas = json.loads(OPENAPI.read_text(encoding="utf-8"))["components"]["schemas"]
    assert set(schemas[name]["properties"]) == set(shape.model_fields)
