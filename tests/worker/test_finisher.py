"""Group commit of ends: every end is answered despite failures of its batch or connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from bench import Bench
from waiting import until
from wire import wire_to

from holdfast.errors import Unavailable
from holdfast.model.claim import Failure, Grant, Success
from holdfast.model.lifecycle import Reason, State
from holdfast.model.task import Answer
from holdfast.store.store import Store
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.logs import create_logger
from holdfast.worker.finisher import Finisher


class WatchedStore(Store):
    """A store that records the sizes of its batches and raises ``error`` once, if set."""

    sizes: list[int]
    error: BaseException | None = None

    async def finish(self, successes: Sequence[Success], worker_id: UUID) -> list[Answer]:
        self.sizes.append(len(successes))
        if self.error:
            error, self.error = self.error, None
            raise error
        return await super().finish(successes, worker_id)


@contextlib.asynccontextmanager
async def finishing(
    bench: Bench, worker: UUID, **changes: Any
) -> AsyncIterator[tuple[Finisher, WatchedStore]]:
    store = WatchedStore(bench.quick(**changes), connections=1, application_name="test-finish")
    store.sizes = []
    finisher = Finisher(store, worker, create_logger(style="json", stream=bench.log))
    running = asyncio.create_task(finisher.run())
    yield finisher, store
    finisher.stop()
    await running
    await store.close()


def success(grant: Grant, result: str = '{"ok": true}') -> Success:
    return Success(grant.task_id, grant.epoch, result)


async def test_concurrent_ends_share_a_statement(bench: Bench) -> None:
    worker = await bench.registered()
    grants = await bench.claimed(*["a"] * 600, worker=worker)
    async with finishing(bench, worker) as (finisher, store):
        ends = [success(grant, f'["result", {n}]') for n, grant in enumerate(grants)]
        answers = await asyncio.gather(*map(finisher.settle, ends))
    assert all(answer.done and answer.state is State.SUCCEEDED for answer in answers)
    assert [answer.task_id for answer in answers] == [grant.task_id for grant in grants]
    assert store.sizes == [500, 100]
    stored = dict(bench.sql("SELECT task_id, result FROM effects"))
    assert stored == {grant.task_id: ["result", n] for n, grant in enumerate(grants)}


async def test_every_kind_of_end_in_one_batch(bench: Bench) -> None:
    worker = await bench.registered()
    grants = await bench.claimed(*["a"] * 4, worker=worker)
    ends: list[Success | Failure] = [
        success(grants[0]),
        Failure(grants[1].task_id, grants[1].epoch, Reason.FAILED, 60.0, '{"n": 1}'),
        Failure(grants[2].task_id, grants[2].epoch, Reason.DISCARDED, 120.0, '{"n": 2}'),
        Failure(grants[3].task_id, grants[3].epoch, Reason.RELEASED, 180.0, '{"n": 3}'),
    ]
    async with finishing(bench, worker) as (finisher, _):
        answers = await asyncio.gather(*map(finisher.settle, ends))
    states = [State.SUCCEEDED, State.SCHEDULED, State.FAILED, State.SCHEDULED]
    assert [answer.state for answer in answers] == states
    for n, (grant, end) in enumerate(zip(grants[1:], ends[1:], strict=True), start=1):
        story = await bench.story(grant.task_id)
        assert isinstance(end, Failure)
        assert (story.events[-1].reason, story.events[-1].detail) == (end.reason, {"n": n})
        if story.task.state is State.SCHEDULED:
            delay = (story.task.due_at - story.events[-1].at).total_seconds()
            assert delay == pytest.approx(60.0 * n, abs=5.0)


@pytest.mark.parametrize("guilty", [0, 3, 6])
async def test_unstorable_result_does_not_affect_its_batch(bench: Bench, guilty: int) -> None:
    worker = await bench.registered()
    grants = await bench.claimed(*["a"] * 7, worker=worker, max_attempts=1)
    ends = [success(grant) for grant in grants]
    ends[guilty] = success(grants[guilty], '"\\u0000"')
    async with finishing(bench, worker) as (finisher, _):
        answers = await asyncio.gather(*map(finisher.settle, ends))
    states = [answer.state for answer in answers]
    assert states.pop(guilty) is State.FAILED
    assert states == [State.SUCCEEDED] * 6
    assert (await bench.error(grants[guilty].task_id))["message"] == "result not storable"


async def test_unstorable_error_detail_still_ends_its_attempt(bench: Bench) -> None:
    worker = await bench.registered()
    grants = await bench.claimed("a", "b", worker=worker, max_attempts=1)
    ends = [Failure(g.task_id, g.epoch, Reason.FAILED, 0.0, '{"error": 1}') for g in grants]
    ends[0] = Failure(grants[0].task_id, grants[0].epoch, Reason.FAILED, 0.0, '"\\u0000"')
    async with finishing(bench, worker) as (finisher, _):
        answers = await asyncio.gather(*map(finisher.settle, ends))
    assert [answer.state for answer in answers] == [State.FAILED] * 2
    details = [(await bench.story(g.task_id)).events[-1].detail for g in grants]
    assert details == [None, {"error": 1}]


async def test_lost_reply_is_settled_by_resending_the_statement(bench: Bench) -> None:
    worker = await bench.registered()
    done, retried = await bench.claimed("a", "b", worker=worker)
    async with wire_to(bench.settings.database_url) as wire:
        wire.lose_reply_to(done.task_id.bytes)
        async with finishing(bench, worker, database_url=wire.url) as (finisher, store):
            answer = await finisher.settle(success(done))
            assert wire.reply_lost.is_set()
            wire.lose_reply_to(retried.task_id.bytes)
            failure = Failure(retried.task_id, retried.epoch, Reason.FAILED, 60.0)
            again = await finisher.settle(failure)
            assert wire.reply_lost.is_set()
    assert (answer.done, answer.state) == (True, State.SUCCEEDED)
    assert (again.done, again.state) == (True, State.SCHEDULED)
    assert store.sizes == [1, 1]
    assert bench.sql("SELECT count(*) FROM effects") == [(1,)]
    assert bench.sql("SELECT count(*) FROM stale_writes") == [(0,)]
    assert (await bench.story(retried.task_id)).task.attempt == 1


async def test_ends_wait_until_postgres_is_back(bench: Bench) -> None:
    worker = await bench.registered()
    first, second, third = await bench.claimed("a", "b", "c", worker=worker)
    async with (
        wire_to(bench.settings.database_url) as wire,
        finishing(bench, worker, database_url=wire.url) as (finisher, _),
    ):
        assert (await finisher.settle(success(first))).done
        wire.down()
        waiting = asyncio.gather(*(finisher.settle(success(g)) for g in (second, third)))
        await until(lambda: bench.logged().count(EventName.FINISH_RESENT) >= 2)
        assert not waiting.done()
        wire.heal()
        assert all(answer.done for answer in await waiting)


async def test_ends_are_resent_after_a_pause(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the worker would send without end while Postgres refuses connections."""
    pauses: list[float] = []
    worker = await bench.registered()
    (grant,) = await bench.claimed("a", worker=worker)
    async with finishing(bench, worker) as (finisher, store):
        sleep = asyncio.sleep

        async def paused(seconds: float) -> None:
            if store.sizes:
                pauses.append(seconds)
            await sleep(0)

        store.error = Unavailable("refused")
        monkeypatch.setattr(asyncio, "sleep", paused)
        assert (await finisher.settle(success(grant))).done
        monkeypatch.undo()
    assert store.sizes == [1, 1]
    assert pauses == [0.2]


async def test_stale_end_is_refused_and_recorded(bench: Bench) -> None:
    worker = await bench.registered()
    (grant,) = await bench.claimed("a", worker=worker)
    async with finishing(bench, uuid4()) as (finisher, _):
        stale = Success(grant.task_id, grant.epoch - 2, "1")
        unknown = Success(uuid4(), 1, "1")
        answers = await asyncio.gather(finisher.settle(stale), finisher.settle(unknown))
    assert [(a.done, a.state) for a in answers] == [(False, State.RUNNING), (False, None)]
    assert len(bench.sql("SELECT * FROM stale_writes")) == 2


async def test_two_ends_of_one_task_are_both_answered(bench: Bench) -> None:
    worker = await bench.registered()
    (grant,) = await bench.claimed("a", worker=worker)
    async with finishing(bench, worker) as (finisher, store):
        failure = Failure(grant.task_id, grant.epoch, Reason.FAILED)
        first, second = await asyncio.gather(
            finisher.settle(success(grant)), finisher.settle(failure)
        )
    assert first.done
    assert (first.state, second.state) == (State.SUCCEEDED, State.SUCCEEDED)
    assert await bench.reasons(grant.task_id) == [
        Reason.SUBMITTED,
        Reason.DISPATCHED,
        Reason.CLAIMED,
        Reason.SUCCEEDED,
    ]
    assert store.sizes == [1]


@pytest.mark.parametrize("error", [RuntimeError("a bug"), asyncio.CancelledError()], ids=repr)
async def test_unexpected_exception_fails_only_its_batch(
    bench: Bench, error: BaseException
) -> None:
    worker = await bench.registered()
    first, second = await bench.claimed("a", "b", worker=worker)
    async with finishing(bench, worker) as (finisher, store):
        store.error = error
        with pytest.raises(RuntimeError, match="finish failed"):
            await finisher.settle(success(first))
        assert (await finisher.settle(success(second))).done
    assert EventName.FINISH_FAILED in bench.logged()


async def test_end_is_sent_even_if_its_caller_was_cancelled(bench: Bench) -> None:
    worker = await bench.registered()
    (grant,) = await bench.claimed("a", worker=worker)
    async with finishing(bench, worker) as (finisher, _):
        waiting = asyncio.create_task(finisher.settle(success(grant)))
        await asyncio.sleep(0)
        waiting.cancel()
    assert await bench.state(grant.task_id) is State.SUCCEEDED


async def test_unanswered_ends_are_reported_as_stalled(bench: Bench) -> None:
    worker = await bench.registered()
    grants = await bench.claimed("a", "a", worker=worker)
    bench.sql("ALTER TABLE effects RENAME TO elsewhere")
    async with finishing(bench, worker) as (finisher, _):
        with pytest.raises(RuntimeError, match="finish failed"):
            await finisher.settle(success(grants[0]))
        assert finisher.stalled(60.0) == {}, "a short failure is not reported"
        assert "effects" in finisher.stalled(-1.0)["finish"]
        bench.sql("ALTER TABLE elsewhere RENAME TO effects")
        assert (await finisher.settle(success(grants[1]))).done
        assert finisher.stalled(-1.0) == {}
