"""The tasks of a workload differ in everything that a request can say."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.scenario.differences import FAILURES_MAX
from chaos.scenario.operations import Differences, Workload
from chaos.scenario.scenario import Scenario, find, names
from chaos.scenario.workload import PlannedOperation, generate
from chaos.tasks.declarations import DECLARATIONS
from chaos.tasks.steps import FAILING
from examples import examples
from holdfast.model import payload as payloads
from holdfast.model.request import TaskRequest, to_new_task
from holdfast.model.task import NewTask

BUSY = Workload.model_validate(
    {
        "tasks": 400,
        "seconds": 10,
        "effects": {"ledger": 2, "sql": 1, "external": 1},
        "later": {"share": 0.5},
        "flaky": {"share": 0.2},
        "repeats": 0.9,
        "mismatches": 0.9,
        "differences": {"ends": 0.3, "hangs": 40},
    }
)
FIELDS = ("name", "payload", "run_at", "queue", "priority", "max_attempts", "timeout_seconds")
ZERO = datetime(2026, 1, 9, tzinfo=UTC)


def stored(planned: PlannedOperation) -> NewTask:
    """Return what the API would store of it."""
    body = dict(planned.request)
    if planned.run_after is not None:
        zone = timezone(timedelta(minutes=planned.offset_minutes or 0))
        body["run_at"] = (ZERO + timedelta(seconds=planned.run_after)).astimezone(zone).isoformat()
    request = TaskRequest.model_validate(json.loads(json.dumps(body)))
    return to_new_task(request, UUID(int=0), payloads.encode(request.payload), "")


def by_kind(seed: int) -> dict[str, list[PlannedOperation]]:
    found: dict[str, list[PlannedOperation]] = {"submit": [], "repeat": [], "mismatch": []}
    for operation in generate(BUSY, seed):
        found.setdefault(operation.kind, []).append(operation)
    return found


@given(seed=st.integers(0, 2**32))
@examples(5)
def test_repeats_are_equal_and_mismatches_differ_in_exactly_one_field(seed: int) -> None:
    found = by_kind(seed)
    first = {submit.key: stored(submit) for submit in found["submit"]}
    for repeat in found["repeat"]:
        assert stored(repeat).fingerprint == first[repeat.key].fingerprint
    changed: Counter[str] = Counter()
    for mismatch in found["mismatch"]:
        other, original = stored(mismatch), first[mismatch.key]
        (field,) = [name for name in FIELDS if getattr(other, name) != getattr(original, name)]
        changed[field] += 1
    assert changed.keys() == {*FIELDS}


def test_repeats_are_written_differently() -> None:
    found = by_kind(3)
    first = {submit.key: submit for submit in found["submit"]}
    pairs = [(first[repeat.key], repeat) for repeat in found["repeat"]]
    texts = [(json.dumps(a.request), json.dumps(b.request)) for a, b in pairs]
    assert sum(a != b for a, b in texts) > 0.95 * len(texts)
    assert {repeat.offset_minutes for _, repeat in pairs} >= {None, -570, 0, 345}
    timeouts = [repeat.request["timeout_seconds"] for _, repeat in pairs]
    assert {type(seconds) for seconds in timeouts} == {int, float, type(None)}


def test_tasks_share_no_constant() -> None:
    submits = by_kind(1)["submit"]
    tasks = [stored(submit) for submit in submits]
    assert {task.name for task in tasks} == DECLARATIONS.keys() - {"chaos_thread"}
    assert {task.queue for task in tasks} == {"default", "bulk", "Bulk"}
    assert {task.priority for task in tasks} == {*range(10)}
    assert len({task.payload for task in tasks}) == len(tasks)
    assert len({task.max_attempts for task in tasks}) > 5
    assert len({task.timeout_seconds for task in tasks}) > 50
    assert None in {task.max_attempts for task in tasks}
    assert None in {task.timeout_seconds for task in tasks}
    keys = [submit.key for submit in submits]
    assert len({*keys}) == len(keys) == 2 * len({key.lower() for key in keys})
    # An omitted field, and due times down to the microsecond.
    assert any("queue" not in submit.request for submit in submits)
    dues = [submit.run_after for submit in submits if submit.run_after is not None]
    assert sum(round(due, 3) != due for due in dues) > len(dues) / 2


def test_some_results_are_nothing_but_a_falsy_value() -> None:
    steps = [s for submit in by_kind(2)["submit"] for s in submit.request["payload"]["steps"]]
    returned = [step for step in steps if step["do"] == "return"]
    whole = [step["value"] for step in returned if step.get("whole")]
    assert 0 < len(whole) < len(returned)
    assert sum(value is not None and not value for value in whole) > len(whole) / 3


def limit(request: dict[str, Any]) -> int:
    return int(request.get("max_attempts") or DECLARATIONS[request["name"]].max_attempts or 5)


@given(seed=st.integers(0, 2**32))
@examples(5)
def test_payloads_fail_all_attempts_or_leave_as_many_as_the_workload_wants(seed: int) -> None:
    done: Counter[str] = Counter()
    for submit in by_kind(seed)["submit"]:
        steps = [step["do"] for step in submit.request["payload"]["steps"]]
        done.update(steps)
        failing = sum(step in FAILING for step in steps)
        if "discard" in steps:
            assert steps.index("discard") == len(steps) - 1 <= 1
        elif failing > FAILURES_MAX:  # all of its attempts, and more, if some are lost
            assert failing == len(steps) > limit(submit.request) + 3
            assert limit(submit.request) <= FAILURES_MAX
        else:
            assert limit(submit.request) >= BUSY.max_attempts
        if "hang" in steps or "swallow" in steps:
            declared = DECLARATIONS[submit.request["name"]].timeout_seconds
            seconds = float(submit.request.get("timeout_seconds") or declared or 0)
            assert submit.request["payload"]["seconds"] / 2 < seconds < 2
    failing_steps = {"fail", "fail_late", "unstorable", "retry", "discard", "hang"}
    assert done.keys() == failing_steps | {"swallow", "return", "leave"}


@pytest.mark.parametrize("seed", [8300, *range(10)])
def test_attempts_that_fail_late_have_the_time_for_it(seed: int) -> None:
    """Found by rolling_restart, seed 8300: the timeout of a brief handler was over before."""
    workload = find("rolling_restart").workload
    late = [
        operation.request
        for operation in generate(workload, seed)
        if operation.kind == "submit"
        and any(step["do"] == "fail_late" for step in operation.request["payload"]["steps"])
    ]
    assert late
    for request in late:
        declared = DECLARATIONS[request["name"]].timeout_seconds or 0.0
        assert float(request.get("timeout_seconds", declared)) >= workload.timeout_seconds


def test_differences_of_a_task_change_no_other_draw() -> None:
    alike = Differences(requests=False, queues=("default",), ends=0, hangs=0)
    plain = generate(BUSY.model_copy(update={"differences": alike}), 4)
    varied = generate(BUSY, 4)
    assert len(plain) == len(varied)
    same = [(op.at, op.kind, op.client, op.effect, op.key.lower()) for op in varied]
    due = [(op.at, op.kind, op.client, op.effect) for op in plain]
    assert sorted(row[:4] for row in same) == sorted(due)


# In `priorities` the only reader of one queue stands still.
@pytest.mark.parametrize("name", sorted({*names()} - {"priorities"}))
def test_every_queue_of_a_scenario_has_a_second_reader(name: str) -> None:
    scenario = find(name).drawn(1)
    for queue in scenario.workload.differences.queues:
        readers = [w for w in scenario.workers if queue in scenario.queues_of(w)]
        assert len(readers) >= min(2, len(scenario.workers))


def test_workers_read_different_sets_of_queues() -> None:
    calm = find("calm")
    sets = {frozenset(calm.queues_of(worker)) for worker in calm.workers}
    assert len(sets) == 3
    document = calm.document
    document["topology"]["queues"] = {"worker-1": ["bulk"], "worker-2": ["Bulk", "default"]}
    given = Scenario.model_validate(document)
    assert given.queues_of("worker-1") == ("bulk",)
    assert given.queues_of("worker-3") == ("Bulk", "default", "bulk")


@pytest.mark.parametrize(
    ("part", "change", "complaint"),
    [
        ("topology", {"queues": {"worker-9": ["bulk"]}}, "queues: worker-9: no such worker"),
        ("topology", {"queues": {"worker-1": []}}, "queues: worker-1: at least one queue"),
        (
            "topology",
            {"queues": {f"worker-{n}": ["default", "bulk"] for n in (1, 2, 3)}},
            "topology.queues: no worker reads Bulk",
        ),
        (
            "workload",
            {"differences": {"requests": False}},
            "without requests there are no ends, no hangs and only one queue",
        ),
    ],
)
def test_impossible_differences_are_refused(
    part: str, change: dict[str, Any], complaint: str
) -> None:
    document = find("calm").document
    document[part] |= change
    with pytest.raises(ValueError, match=complaint):
        Scenario.model_validate(document)
