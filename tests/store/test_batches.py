"""Statements on many tasks at once: no item gets a field of another.

Every item of a batch differs from the others in every field, and each field is read back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from bench import Bench

from holdfast.model.claim import Failure, Grant, Success
from holdfast.model.dispatch import Hint
from holdfast.model.ids import new_id
from holdfast.model.lifecycle import Reason, State
from holdfast.model.task import Answer, NewTask

COUNT = 30
NOW = datetime(2026, 1, 9, tzinfo=UTC)
_KEPT = (
    *("id", "name", "queue", "priority", "run_at", "max_attempts", "max_losses"),
    *("timeout_seconds", "idempotency_key", "traceparent", "key_namespace"),
)


def different(n: int) -> NewTask:
    """Return a task of which every field depends on ``n``."""
    return NewTask(
        id=new_id(),
        name=f"name_{n}",
        payload=json.dumps({"n": n, f"key {n}": [n / 7, f"ä{n}"]}).encode(),
        queue=f"queue_{n}",
        priority=n % 10,
        run_at=NOW + timedelta(seconds=n, microseconds=n),
        max_attempts=COUNT + n,
        max_losses=2 * COUNT + n,
        timeout_seconds=100 + n / 4,
        idempotency_key=f"key-{n}",
        traceparent=f"00-{n + 1:032x}-{n + 1:016x}-01",
        key_namespace=f"key_namespace_{n}",
    )


@dataclass
class Batch:
    """Submitted tasks in the order of their submit, and their grants in the same order."""

    tasks: list[NewTask]
    grants: list[Grant]
    worker: UUID


async def claimed(bench: Bench) -> Batch:
    """Claim the tasks by hints in another order."""
    tasks = [different(n) for n in range(COUNT)]
    await bench.store.submit(tasks, "api:test")
    worker = await bench.registered()
    hints: list[Hint] = [*(await bench.store.dispatch(COUNT, "scheduler:test")).tasks]
    answer = await bench.store.claim(hints[::-1], worker, uuid4())
    grants = {grant.task_id: grant for grant in answer.grants}
    assert len(grants) == COUNT
    return Batch(tasks, [grants[task.id] for task in tasks], worker)


def by_id(answers: Sequence[Answer]) -> dict[UUID, Answer]:
    """Return the answers of a batch, which come in any order, by task."""
    found = {answer.task_id: answer for answer in answers}
    assert len(found) == len(answers) == COUNT
    return found


async def test_submitted_tasks_keep_their_own_fields(bench: Bench) -> None:
    tasks = [different(n) for n in range(COUNT)]
    answers = await bench.store.submit(tasks, "api:test")
    again = await bench.store.submit(tasks[::-1], "api:test")
    for task, answer, repeated in zip(tasks, answers, again[::-1], strict=True):
        row = (await bench.story(task.id)).task
        assert answer.task == repeated.task == row
        assert (answer.outcome, row.state) == ("created", State.SCHEDULED)
        assert json.loads(row.payload) == json.loads(task.payload)
        for field in _KEPT:
            assert getattr(row, field) == getattr(task, field), field


async def test_keys_of_a_batch_find_their_own_tasks(bench: Bench) -> None:
    tasks = [different(n) for n in range(COUNT)]
    await bench.store.submit(tasks, "api:test")
    # Even numbers repeat the request; odd ones ask for something else under the same key.
    asked = [
        replace(different(n), priority=(n + n % 2) % 10)  # an odd one: one more
        for n in range(COUNT)
    ]
    for n, answer in enumerate(await bench.store.submit(asked[::-1], "api:test")):
        number = COUNT - 1 - n
        assert answer.outcome == ("mismatch" if number % 2 else "existing")
        assert answer.task.id == tasks[number].id


async def test_dispatched_hints_and_grants_belong_to_their_tasks(bench: Bench) -> None:
    batch = await claimed(bench)
    for task, grant in zip(batch.tasks, batch.grants, strict=True):
        assert (grant.name, grant.queue) == (task.name, task.queue)
        assert json.loads(grant.payload) == json.loads(task.payload)
        assert (grant.max_attempts, grant.timeout_seconds) == (
            task.max_attempts,
            task.timeout_seconds,
        )
        assert grant.traceparent == task.traceparent
        assert (grant.epoch, grant.attempt, grant.failures) == (1, 1, 1)


async def test_finished_tasks_keep_their_own_results(bench: Bench) -> None:
    batch = await claimed(bench)
    ends = [
        Success(grant.task_id, grant.epoch, json.dumps([n, {"result": f"é{n}"}]))
        for n, grant in enumerate(batch.grants)
    ]
    # One of them is stale: its refusal must not shift the others.
    ends[7] = Success(ends[7].task_id, 99, '"stale"')
    answers = by_id(await bench.store.finish(ends[::-1], batch.worker))
    for n, task in enumerate(batch.tasks):
        story = await bench.story(task.id)
        assert answers[task.id].done == (n != 7)
        if n == 7:
            assert story.effect is None
            assert story.task.state is State.RUNNING
            continue
        assert story.effect is not None
        assert json.loads(story.effect.result) == [n, {"result": f"é{n}"}]
        assert (story.effect.effect_key, story.effect.epoch) == (story.task.id, 2)


@pytest.mark.parametrize("turn", [0, 1, 2])
async def test_failed_tasks_keep_their_own_ends(bench: Bench, turn: int) -> None:
    batch = await claimed(bench)
    reasons = (Reason.FAILED, Reason.TIMED_OUT, Reason.DISCARDED, Reason.RELEASED)
    ends = [
        Failure(
            grant.task_id,
            grant.epoch,
            reasons[(n + turn) % len(reasons)],
            100.0 * n,
            json.dumps({"error": {"type": f"T{n}", "message": f"é{n}"}}),
        )
        for n, grant in enumerate(batch.grants)
    ]
    answers = by_id(await bench.store.release(ends[::-1], batch.worker))
    for n, end in enumerate(ends):
        story, answer = await bench.story(end.task_id), answers[end.task_id]
        last = story.events[-1]
        state = State.FAILED if end.reason is Reason.DISCARDED else State.SCHEDULED
        assert (answer.done, answer.state) == (True, state)
        assert (last.reason, last.to_state, story.task.state) == (end.reason, state, state)
        assert last.detail == {"error": {"type": f"T{n}", "message": f"é{n}"}}
        assert story.task.handed_back == (end.reason is Reason.RELEASED)
        if state is State.SCHEDULED:
            delay = (story.task.due_at - last.at).total_seconds()
            assert delay == pytest.approx(100.0 * n, abs=1.0)


async def test_cancels_answer_for_their_own_tasks(bench: Bench) -> None:
    batch = await claimed(bench)
    done, waiting = batch.grants[3], different(COUNT)
    await bench.store.finish([Success(done.task_id, done.epoch, "1")], batch.worker)
    await bench.store.submit([waiting], "api:test")
    unknown = new_id()
    asked = [unknown, batch.grants[5].task_id, waiting.id, done.task_id]
    answers = await bench.store.cancel(asked, "api:test")
    assert {each.task_id: (each.made, each.found, each.queue) for each in answers} == {
        unknown: (False, None, None),
        batch.grants[5].task_id: (True, State.RUNNING, "queue_5"),
        waiting.id: (True, State.SCHEDULED, f"queue_{COUNT}"),
        done.task_id: (False, State.SUCCEEDED, "queue_3"),
    }
