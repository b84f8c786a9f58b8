"""The operations of a history are those that the workload plans."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from life import ALLOWED_SECONDS, instant

from chaos.checker.planned_operations import operation_doubts
from chaos.checker.verdict import judge
from chaos.clients.client import Client, OperationLog, Request, Response
from chaos.history.history import History
from chaos.history.records import ArenaName, Bound, Op, PhaseStart, Record, Run
from chaos.scenario.scenario import Scenario
from chaos.scenario.workload import CLIENTS, generate
from chaos.tasks.declarations import DECLARATIONS

WORKLOAD = {
    "tasks": 60,
    "seconds": 10,
    "repeats": 0.4,
    "mismatches": 0.4,
    "cancels": 0.4,
    "reads": 0.6,
}


class Answers:
    """An API that stores tasks; ``lost``: share of requests that get one of its refusals."""

    def __init__(self, seed: int, lost: float) -> None:
        self._draw = random.Random(f"answers {seed}")
        self._lost = lost
        self._ids: dict[str | None, str] = {}

    def __call__(self, request: Request) -> Response:
        if self._draw.random() < self._lost:
            return Response(*self._draw.choice([(0, None), (503, {"type": "x:unavailable"})]))
        if request.name == "batch":
            tasks = request.body["tasks"] if request.body else []
            made = [{"status": 201, "task": self._task(t["idempotency_key"])} for t in tasks]
            return Response(200, {"results": made})
        if request.name == "submit":
            return Response(201, self._task(request.key))
        return Response(200, {"state": "QUEUED", "tasks": [], "next_cursor": None})

    def _task(self, key: str | None) -> dict[str, str]:
        return {"id": self._ids.setdefault(key, f"id-{len(self._ids)}")}


def ran(seed: int, *, lost: float = 0.0, batch: int = 1, **more: Any) -> tuple[Scenario, list[Op]]:
    """Let the clients of a scenario talk to ``Answers``; return what they recorded."""
    workload = WORKLOAD | {"batch": batch} | more
    scenario = Scenario.model_validate(
        {
            "id": "planned",
            "hypothesis": "Every operation that was planned was sent.",
            "workload": workload,
        }
    )
    records: list[Op] = []
    now = 0.0
    log = OperationLog(records.append, lambda: 0.0, lambda: now)
    operations = generate(scenario.workload, seed)
    clients = [Client(number, operations, log) for number in range(CLIENTS)]
    answer, draw = Answers(seed, lost), random.Random(seed)
    while working := [client for client in clients if client.due is not None]:
        client = min(working, key=lambda each: each.due or 0.0)
        now = max(now, client.due or 0.0) + draw.random() / 20
        if request := client.next_request():
            now += draw.random() / 20
            client.handle_response(answer(request))
    return scenario, records


def history(scenario: Scenario, seed: int, records: list[Op]) -> History:
    run = Run(
        scenario=scenario.document,
        seed=seed,
        arena=ArenaName.SIMULATION,
        database_epoch=instant(0),
        bound=Bound(seconds=ALLOWED_SECONDS, terms=()),
        settings={},
    )
    everything: list[Record] = [run, *records, PhaseStart(phase="drained", at=60.0)]
    return History(everything)


def doubts(scenario: Scenario, seed: int, records: list[Op]) -> list[str]:
    return list(operation_doubts(history(scenario, seed, records), scenario))


@pytest.mark.parametrize("lost", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("seed", range(5))
def test_what_clients_send_is_what_was_planned(seed: int, batch: int, lost: float) -> None:
    scenario, records = ran(seed, lost=lost, batch=batch)
    assert doubts(scenario, seed, records) == []


@pytest.mark.parametrize("lost", [0.0, 0.3])
def test_names_of_api_keys_share_keys_and_payloads(lost: float) -> None:
    keys = {"shop": ["old", "next"], "desk": ["only"]}
    scenario, records = ran(1, lost=lost, batch=5, api_keys=keys)
    assert not doubts(scenario, 1, records)
    unnamed = [
        replace(r, value={n: v for n, v in r.value.items() if n != "key_namespace"})
        for r in records
    ]
    assert "120 tasks were planned, but 60 keys were used" in doubts(scenario, 1, unnamed)


def test_malformed_answers_are_no_doubt_about_the_clients() -> None:
    scenario, records = ran(1)  # these answers have hardly any member that is documented
    judgement = judge(history(scenario, 1, records))
    assert {v.invariant for v in judgement.violations} >= {"S22"}
    assert not [each for each in judgement.doubts if "outcomes" in each or "operations" in each]


@pytest.mark.parametrize("name", ["task_id", "key", "problem", "answer", "state"])
@pytest.mark.parametrize("value", [None, 7, [], {}])
@pytest.mark.parametrize("op", ["submit", "cancel", "get"])
def test_no_malformed_completion_makes_the_comparison_crash(
    op: str, name: str, value: object
) -> None:
    scenario, records = ran(1)
    doubts(scenario, 1, edited(records, op, **{name: value}))


def test_processes_other_than_clients_are_not_judged() -> None:
    scenario, records = ran(1)
    first = records[0]
    reader = Op(
        op="get",
        type="invoke",
        op_id="read-1",
        process="reader",
        at=first.at,
        value={"task_id": "x"},
    )
    assert doubts(scenario, 1, [*records, reader]) == []


@pytest.mark.parametrize("seed", range(5))
def test_lost_last_records_are_seen(seed: int) -> None:
    scenario, records = ran(seed)
    assert doubts(scenario, seed, records[:-10])


@pytest.mark.parametrize("kind", ["submit", "get", "cancel", "list"])
def test_each_lost_operation_is_seen(kind: str) -> None:
    scenario, records = ran(2)
    lost = [record.op_id for record in records if record.op == kind and record.type == "invoke"]
    seen = [
        bool(doubts(scenario, 2, [record for record in records if record.op_id != op_id]))
        for op_id in lost
    ]
    # An operation about a task may be skipped only around the answer to its submit.
    assert all(seen) if kind in {"submit", "list"} else sum(seen) > 0.9 * len(seen)


def test_an_operation_that_nobody_planned_is_seen() -> None:
    scenario, records = ran(3)
    other = [op for op in ran(4)[1] if op.op == "submit"][:2]
    extra = [
        Op(op=op.op, type=op.type, op_id="extra", process=op.process, at=op.at, value=op.value)
        for op in other
    ]
    *_, doubt = doubts(scenario, 3, [*records, *extra])
    assert "submit 1 times instead of 0" in doubt


def test_an_invoke_without_completion_is_seen() -> None:
    scenario, records = ran(1)
    last = max(n for n, record in enumerate(records) if record.type != "invoke")
    found = doubts(scenario, 1, records[:last] + records[last + 1 :])
    assert found[0].startswith("1 operations have no completion: op-")


# ------------------------------------------------------------------------- outcomes, differences


def edited(records: list[Op], op: str, **changes: Any) -> list[Op]:
    """Change the first completion of this operation that is ok."""
    found = next(n for n, r in enumerate(records) if r.op == op and r.type == "ok")
    value = records[found].value | {k: v for k, v in changes.items() if k != "type"}
    kind = changes.get("type", "ok")
    changed = replace(records[found], type=kind, value=value)
    return [*records[:found], changed, *records[found + 1 :]]


@pytest.mark.parametrize(
    ("op", "changes", "message"),
    [
        ("cancel", {"type": "fail", "status": 409}, "409 recorded as fail instead of ok"),
        ("cancel", {"status": 409}, "409 recorded as cancelled instead of too_late"),
        ("cancel", {"status": 202}, "202 recorded as cancelled instead of requested"),
        ("get", {"status": 404}, "404 recorded with the state QUEUED"),
        ("get", {"status": 503}, "503 recorded as ok instead of info"),
        ("submit", {"status": 503, "problem": "unavailable"}, "as ok instead of fail"),
        ("submit", {"status": 422}, "422 recorded as ok instead of fail"),
        ("submit", {"type": "fail", "status": 0}, "0 recorded as fail instead of info"),
        ("submit", {"type": "info", "status": 201}, "201 recorded as info instead of ok"),
        ("list", {"status": None}, "recorded without a status"),
        ("cancel", {"status": 503, "problem": "done-but-unread"}, "cancelled instead of done"),
    ],
)
def test_outcome_that_contradicts_its_answer(
    op: str, changes: dict[str, Any], message: str
) -> None:
    scenario, records = ran(1)
    found = doubts(scenario, 1, edited(records, op, **changes))
    assert any(doubt.startswith("outcomes contradict") and message in doubt for doubt in found)


def test_equal_payloads_are_seen() -> None:
    scenario, records = ran(1)
    same = [
        replace(r, value=r.value | {"payload": {"number": 0, "seconds": 0.05, "steps": []}})
        if r.op == "submit" and r.type == "invoke" and r.value["name"] in DECLARATIONS
        else r
        for r in records
    ]
    assert doubts(scenario, 1, same) == [
        "payloads of different tasks have the same number",
        "all attempts take 0.05 s",
    ]


@pytest.mark.parametrize("name", ["queue", "priority", "timeout_seconds"])
def test_constant_field_is_seen(name: str) -> None:
    scenario, records = ran(1)
    constant = [
        replace(r, value=r.value | {name: 3}) if r.op == "submit" and r.type == "invoke" else r
        for r in records
    ]
    assert doubts(scenario, 1, constant) == [f"all tasks have {name} 3"]


def test_shared_keys_are_seen() -> None:
    scenario, records = ran(1)
    shared = [
        replace(r, value=r.value | {"key": r.value["key"][:-1]})
        if r.op == "submit" and r.type == "invoke"
        else r
        for r in records
    ]
    assert "60 tasks were planned, but 12 keys were used" in doubts(scenario, 1, shared)
