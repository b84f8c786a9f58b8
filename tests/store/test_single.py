"""The finish of one task: what it settles itself, and what it leaves to the batch's statement."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from bench import Bench

from holdfast.model.claim import Failure, Success
from holdfast.model.ids import new_id
from holdfast.model.lifecycle import Reason, State
from holdfast.store import single

_STALE = (
    "SELECT task_id, worker_id, epoch, outcome, state_found, epoch_found FROM stale_writes"
    " WHERE at > now() - interval '1 hour'"
)


async def finished_once(bench: Bench, task: UUID, epoch: int, worker: UUID) -> list[dict[str, Any]]:
    """Send only the statement of one task."""
    parameters = single.finish_one(Success(task, epoch, "1"), worker, "worker:test")
    return await bench.store._database.rows(single.FINISH_ONE, parameters)


@pytest.mark.parametrize("sent", [3, 99], ids=["an older owner", "a later one"])
async def test_stale_finish_is_recorded_by_the_statement_itself(bench: Bench, sent: int) -> None:
    """Its sender may not live to send another one."""
    worker, other = await bench.registered(), await bench.registered()
    (grant,) = await bench.claimed("a", worker=worker)
    (row,) = await finished_once(bench, grant.task_id, sent, other)
    found = {"state": State.RUNNING, "epoch": grant.epoch}
    assert row == {"task_id": grant.task_id, "made": False, "done": False} | found
    refused = (grant.task_id, other, sent, "succeeded", State.RUNNING, grant.epoch)
    assert bench.sql(_STALE) == [refused]
    (answer,) = await bench.store.finish([Success(grant.task_id, sent, "1")] * 2, other)
    assert (answer.made, answer.done, answer.state) == (False, False, State.RUNNING)
    assert bench.sql(_STALE) == [refused, refused], "the batch's statement records the same"
    assert bench.sql("SELECT count(*) FROM effects") == [(0,)]


async def test_finish_by_another_worker_under_the_epoch_of_an_ended_attempt_is_stale(
    bench: Bench,
) -> None:
    worker, other = await bench.registered(), await bench.registered()
    (grant,) = await bench.claimed("a", worker=worker)
    await bench.store.finish([Success(grant.task_id, grant.epoch, "1")], worker)
    (row,) = await finished_once(bench, grant.task_id, grant.epoch, other)
    assert (row["made"], row["done"], row["state"]) == (False, False, State.SUCCEEDED)
    assert len(bench.sql(_STALE)) == 1


async def test_resent_finish_and_an_unknown_task_are_left_to_the_batch(bench: Bench) -> None:
    worker = await bench.registered()
    (grant,) = await bench.claimed("a", worker=worker)
    end = Success(grant.task_id, grant.epoch, "1")
    assert [answer.made for answer in await bench.store.finish([end], worker)] == [True]
    assert await finished_once(bench, grant.task_id, grant.epoch, worker) == []
    assert await finished_once(bench, new_id(), 1, worker) == []
    assert bench.sql(_STALE) == []
    (again,) = await bench.store.finish([end], worker)
    assert (again.made, again.done) == (False, True)
    (unknown,) = await bench.store.finish([Success(new_id(), 1, "1")], worker)
    assert (unknown.done, unknown.state) == (False, None)
    assert len(bench.sql(_STALE)) == 1


async def test_resent_end_is_answered_with_the_state_it_left_although_the_task_moved_on(
    bench: Bench,
) -> None:
    """The worker logs and counts what its end did, not what another process did after it."""
    worker, other = await bench.registered(), await bench.registered()
    (first,) = await bench.claimed("a", worker=worker, max_attempts=2)
    end = Failure(first.task_id, first.epoch, Reason.FAILED, 0.0, '{"error": {}}')
    (made,) = await bench.store.release([end], worker)
    assert (made.made, made.state) == (True, State.SCHEDULED)

    hints = (await bench.store.dispatch(10, "scheduler:test")).tasks
    (second,) = (await bench.store.claim(hints, other, new_id())).grants
    for success in (False, True):  # of its two kinds of end, one was sent first
        if success:
            (again,) = await bench.store.finish([Success(first.task_id, first.epoch, "1")], worker)
        else:
            (again,) = await bench.store.release([end], worker)
        assert (again.made, again.done, again.state) == (False, True, State.SCHEDULED)
    assert bench.sql(_STALE) == []

    end = Failure(second.task_id, second.epoch, Reason.FAILED, 0.0, '{"error": {}}')
    (made,) = await bench.store.release([end], other)
    assert made.state is State.FAILED
    assert (await bench.store.retry([first.task_id], "api:test"))[0].made
    assert (await bench.store.cancel([first.task_id], "api:test"))[0].state is State.CANCELLED
    (again,) = await bench.store.release([end], other)
    assert (again.made, again.done, again.state) == (False, True, State.FAILED)
    assert bench.sql(_STALE) == []
