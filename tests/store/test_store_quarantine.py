"""Quarantined tasks are granted exclusively: concurrent claims on a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from bench import Bench

from holdfast.model.claim import Failure, Success
from holdfast.model.dispatch import Hint
from holdfast.model.lifecycle import Reason, State


@dataclass
class Offer:
    """Hints of QUEUED tasks: quarantined ones (lost twice, max_losses 3) and ordinary ones."""

    quarantined: Sequence[Hint]
    ordinary: Sequence[Hint]


async def offered(bench: Bench, *, quarantined: int, ordinary: int, priority: int = 0) -> Offer:
    ids = await bench.submit(*["any"] * quarantined, priority=priority)
    bench.sql("UPDATE tasks SET losses = 2, attempt = 2, epoch = 4 WHERE state = 'SCHEDULED'")
    ids += await bench.submit(*["any"] * ordinary)
    hints = {
        hint.task_id: hint for hint in (await bench.store.dispatch(100, "scheduler:test")).tasks
    }
    listed = [hints[task_id] for task_id in ids]
    return Offer(listed[:quarantined], listed[quarantined:])


def ids(hints: Sequence[Hint]) -> set[UUID]:
    return {hint.task_id for hint in hints}


async def claim(
    bench: Bench, hints: Sequence[Hint], worker: UUID, *, exclusive: bool, token: UUID | None = None
) -> tuple[set[UUID], set[UUID]]:
    """Return the granted and the deferred ids."""
    claimed = await bench.store.claim(hints, worker, token or uuid4(), exclusive=exclusive)
    for grant in claimed.grants:
        task = (await bench.story(grant.task_id)).task
        assert grant.quarantined == (task.losses == 2)
    return {grant.task_id for grant in claimed.grants}, set(claimed.deferred)


async def test_quarantined_task_is_granted_to_idle_worker(bench: Bench) -> None:
    offer, worker = await offered(bench, quarantined=1, ordinary=0), await bench.registered()
    assert await claim(bench, offer.quarantined, worker, exclusive=False) == (
        set(),
        ids(offer.quarantined),
    )
    assert await bench.state(offer.quarantined[0].task_id) is State.QUEUED
    assert await claim(bench, offer.quarantined, worker, exclusive=True) == (
        ids(offer.quarantined),
        set(),
    )


@pytest.mark.parametrize("priority", [0, 9])
async def test_quarantined_task_is_deferred_behind_tasks_claimed_with_it(
    bench: Bench, priority: int
) -> None:
    offer = await offered(bench, quarantined=2, ordinary=3, priority=priority)
    worker = await bench.registered()
    both = [*offer.quarantined, *offer.ordinary]
    assert await claim(bench, both, worker, exclusive=True) == (
        ids(offer.ordinary),
        ids(offer.quarantined),
    )


async def test_quarantined_tasks_are_granted_one_at_a_time(bench: Bench) -> None:
    offer, worker = await offered(bench, quarantined=3, ordinary=0), await bench.registered()
    left = ids(offer.quarantined)
    for _ in range(3):
        granted, deferred = await claim(bench, offer.quarantined, worker, exclusive=True)
        assert (len(granted), deferred) == (1, left - granted)
        left = deferred
        (task_id,) = granted
        await bench.store.finish([Success(task_id, 5, "1")], worker)
    assert left == set()


async def test_exclusive_claim_of_busy_worker_is_deferred(bench: Bench) -> None:
    offer, worker = await offered(bench, quarantined=1, ordinary=1), await bench.registered()
    assert await claim(bench, offer.ordinary, worker, exclusive=True) == (
        ids(offer.ordinary),
        set(),
    )
    assert await claim(bench, offer.quarantined, worker, exclusive=True) == (
        set(),
        ids(offer.quarantined),
    )
    other = await bench.registered()
    assert await claim(bench, offer.quarantined, other, exclusive=True) == (
        ids(offer.quarantined),
        set(),
    )


async def test_nothing_is_granted_while_a_quarantined_task_runs(bench: Bench) -> None:
    offer, worker = await offered(bench, quarantined=1, ordinary=1), await bench.registered()
    await claim(bench, offer.quarantined, worker, exclusive=True)
    for exclusive in (False, True):
        answer = await claim(bench, offer.ordinary, worker, exclusive=exclusive)
        assert answer == (set(), ids(offer.ordinary))
    failure = Failure(offer.quarantined[0].task_id, 5, Reason.FAILED)
    await bench.store.release([failure], worker)
    assert await claim(bench, offer.ordinary, worker, exclusive=False) == (
        ids(offer.ordinary),
        set(),
    )


async def test_resent_claim_gets_the_same_answer(bench: Bench) -> None:
    offer = await offered(bench, quarantined=2, ordinary=1)
    for hints in (offer.quarantined, [*offer.quarantined, *offer.ordinary]):
        worker, token = await bench.registered(), uuid4()
        first = await claim(bench, hints, worker, exclusive=True, token=token)
        assert len(first[0]) == 1
        assert first[1]
        assert await claim(bench, hints, worker, exclusive=True, token=token) == first


async def test_of_two_workers_one_is_granted_and_the_other_drops_its_hint(bench: Bench) -> None:
    one, two = await bench.registered(), await bench.registered()
    for _ in range(20):
        offer = await offered(bench, quarantined=1, ordinary=0)
        (task,) = ids(offer.quarantined)
        answers = await asyncio.gather(
            claim(bench, offer.quarantined, one, exclusive=True),
            claim(bench, offer.quarantined, two, exclusive=True),
        )
        assert sorted(answers, key=lambda a: len(a[0])) == [(set(), set()), ({task}, set())]
        owner = one if answers[0][0] else two
        await bench.store.finish([Success(task, 5, "1")], owner)


async def test_stale_or_cancelled_quarantined_task_is_not_deferred(bench: Bench) -> None:
    offer, worker = await offered(bench, quarantined=2, ordinary=0), await bench.registered()
    first, second = offer.quarantined
    await bench.store.cancel([first.task_id], "api:test")
    stale = Hint(second.task_id, 2, "default", None)
    assert await claim(bench, [first, stale], worker, exclusive=False) == (set(), set())


async def test_manual_retry_allows_exactly_one_more_loss(bench: Bench) -> None:
    offer, worker = await offered(bench, quarantined=1, ordinary=0), await bench.registered()
    (task,) = ids(offer.quarantined)
    await claim(bench, offer.quarantined, worker, exclusive=True)
    await bench.store.retire(worker, datetime.max.replace(tzinfo=UTC))
    (taken,) = await bench.store.reclaim(10, "scheduler:test")
    assert taken.state is State.FAILED
    await bench.store.retry([task], "api:test")
    hints = (await bench.store.dispatch(10, "scheduler:test")).tasks
    other = await bench.registered()
    claimed = await bench.store.claim(hints, other, uuid4(), exclusive=False)
    assert claimed.deferred == {task}, "three losses with max_losses 4: still quarantined"
    bench.sql("UPDATE tasks SET max_losses = 9")
    claimed = await bench.store.claim(hints, other, uuid4(), exclusive=False)
    assert [(grant.task_id, grant.quarantined) for grant in claimed.grants] == [(task, False)]


async def test_task_with_max_losses_one_is_not_quarantined_before_a_loss(
    bench: Bench,
) -> None:
    await bench.submit("any", "any", max_losses=1)
    hints = (await bench.store.dispatch(10, "scheduler:test")).tasks
    worker = await bench.registered()
    claimed = await bench.store.claim(hints, worker, uuid4(), exclusive=False)
    assert len(claimed.grants) == 2
