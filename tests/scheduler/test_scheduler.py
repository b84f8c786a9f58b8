"""Dispatch, sweeps and recovery by a real scheduler, and its failure detector."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from bench import Bench, bench_for
from waiting import until, within
from wire import wire_to

from holdfast.handlers import Context
from holdfast.model.claim import Failure, Success
from holdfast.model.dispatch import Hint
from holdfast.model.lifecycle import Reason, State
from holdfast.scheduler.failure_detector import FailureDetector
from holdfast.scheduler.scheduler import Scheduler
from holdfast.settings import Settings
from holdfast.store.store import Store
from holdfast.telemetry.event_names import EventName

NOON = datetime(2026, 1, 9, 12, tzinfo=UTC)
FOREVER = 3600.0  # a sleep that only a poke ends within a test


async def hinted(bench: Bench, count: int = 1000) -> list[Hint]:
    """Read and ack every unread hint."""
    found: list[Hint] = []
    reader = uuid4()
    for _ in range(2):
        deliveries = await bench.queue.read(reader, ["default"], count, block_seconds=0.01)
        found += [delivery.hint for delivery in deliveries if delivery.hint]
        if deliveries:
            await bench.queue.ack(deliveries)
    return found


def at(seconds: float, clock_ahead: float = 0.0) -> tuple[float, datetime]:
    return 100 + seconds, NOON + timedelta(seconds=seconds + clock_ahead)


def test_detector_trusts_leases_after_enough_ticks() -> None:
    detector = FailureDetector(needed_seconds=3, gap_seconds=1.5)
    ticks = [detector.tick(*at(second)) for second in range(6)]
    assert ticks == [False, False, False, True, True, True]


@pytest.mark.parametrize("seconds", [1.6, 60.0])
def test_gap_restarts_the_observation(seconds: float) -> None:
    detector = FailureDetector(needed_seconds=3, gap_seconds=1.5)
    assert [detector.tick(*at(second)) for second in range(4)][-1]
    after = 3 + seconds
    assert [detector.tick(*at(after + n)) for n in range(4)] == [False, False, False, True]


def test_slow_answer_is_no_gap_but_a_missing_one_is() -> None:
    detector = FailureDetector(needed_seconds=3, gap_seconds=1.5)
    for turn in range(3):
        detector.tick(*at(2 * turn))
        detector.answered(at(2 * turn + 1)[0])
    assert detector.tick(*at(6))
    detector.answered(at(8)[0])
    assert not detector.tick(*at(9))


@pytest.mark.parametrize("jump", [-30.0, 30.0])
def test_database_clock_jump_restarts_the_observation(jump: float) -> None:
    detector = FailureDetector(needed_seconds=3, gap_seconds=1.5)
    assert [detector.tick(*at(second)) for second in range(4)][-1]
    ticks = [detector.tick(*at(second, clock_ahead=jump)) for second in range(4, 9)]
    assert ticks == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("lease", "heartbeat", "poll"), [(15.0, 3.0, 1.0), (3.0, 1.0, 0.2), (60.0, 20.0, 1.0)]
)
async def test_undetected_gap_is_too_short_to_expire_a_live_lease(
    settings: Settings, lease: float, heartbeat: float, poll: float
) -> None:
    times = {"lease_seconds": lease, "heartbeat_seconds": heartbeat, "poll_seconds": poll}
    bench_settings = settings.model_copy(update=times)
    async with bench_for(settings) as bench:
        async with bench.scheduler(**times) as scheduler:
            pass
        gap = scheduler._failure_detector._gap_seconds
    assert gap + heartbeat < lease
    assert gap > bench_settings.poll_seconds, "otherwise its own sleep would count as a gap"


async def test_due_tasks_are_dispatched_and_others_wait(bench: Bench) -> None:
    (due,) = await bench.submit("a")
    (later,) = await bench.submit("a", run_at=datetime(2090, 1, 1, tzinfo=UTC))
    async with bench.scheduler() as scheduler:
        await bench.until_state(due, State.QUEUED)
        await until(lambda: scheduler.loops.stalled() == {})
    assert await hinted(bench) == [Hint(due, 0, "default")]
    assert await bench.state(later) is State.SCHEDULED
    assert (await bench.story(due)).events[-1].actor == "scheduler:test"


async def test_task_is_dispatched_when_due_and_not_before(bench: Bench) -> None:
    run_at = (await bench.store.clock()) + timedelta(seconds=0.8)
    (task_id,) = await bench.submit("a", run_at=run_at)
    async with bench.scheduler(poll_seconds=FOREVER):
        await bench.until_state(task_id, State.QUEUED)
    assert (await bench.story(task_id)).events[-1].at >= run_at


async def test_poke_ends_the_sleep(bench: Bench) -> None:
    async with bench.scheduler(poll_seconds=FOREVER):
        turns = {"loop": "dispatch", "result": "ok"}
        for _ in range(3):
            await until(lambda: _listening(bench))
            (task_id,) = await bench.submit("a")
            await bench.queue.poke()
            await bench.until_state(task_id, State.QUEUED)
    assert bench.count("holdfast_loop_turns_total", **turns) >= 3


async def _listening(bench: Bench) -> bool:
    return bool((await bench.queue._redis.info("clients"))["blocked_clients"])


async def test_higher_priority_goes_first(bench: Bench) -> None:
    low, high = await bench.submit("a", "b", priority=0), await bench.submit("a", "b", priority=9)
    middle = await bench.submit("a", priority=5)
    async with bench.scheduler():
        await bench.until_state([*low, *middle, *high], State.QUEUED)
    assert [hint.task_id for hint in await hinted(bench)] == [*high, *middle, *low]


async def test_queue_is_filled_to_its_depth_and_refilled(bench: Bench) -> None:
    await bench.submit(*["a"] * 10)
    others = await bench.submit(*["a"] * 2, queue="other")
    worker = await bench.registered(immortal=True)
    async with bench.scheduler(queue_depth_max=3):
        await bench.until_state(others, State.QUEUED)
        for finished in range(3, 10, 3):
            await until(lambda: _queued(bench, 3))
            claimed = await bench.store.claim(await hinted(bench), worker, uuid4())
            assert len(claimed.grants) == 3
            ends = [Success(grant.task_id, grant.epoch, "1") for grant in claimed.grants]
            await bench.store.finish(ends, worker)
            assert bench.sql("SELECT count(*) FROM effects") == [(finished,)]
        await until(lambda: _queued(bench, 1))
    reasons = bench.sql("SELECT count(*) FROM task_events WHERE reason = 'dispatched'")
    assert reasons == [(12,)]


async def _queued(bench: Bench, count: int) -> bool:
    query = "SELECT count(*) FROM tasks WHERE state = 'QUEUED' AND queue = 'default'"
    ((found,),) = bench.sql(query)
    assert found <= count
    return bool(found == count)


async def test_dispatch_returns_seconds_until_next_due(bench: Bench) -> None:
    async def seconds(n: int) -> tuple[int, float | None]:
        dispatch = await bench.store.dispatch(n, "scheduler:test")
        return len(dispatch.tasks), dispatch.next_due_seconds

    assert await seconds(10) == (0, None)
    await bench.submit("a", run_at=datetime.now(UTC) + timedelta(hours=2))
    await bench.submit("a", queue="other", run_at=datetime.now(UTC) + timedelta(hours=1))
    await bench.submit("a", "a")
    for count in (2, 0):
        moved, due = await seconds(10)
        assert moved == count
        assert due == pytest.approx(3600, abs=60)
    await bench.submit(*["a"] * 5)
    assert await seconds(4) == (4, None)  # a full batch: more tasks may be due
    moved, due = await seconds(10)
    assert moved == 1
    assert due == pytest.approx(3600, abs=60)


async def test_task_without_room_is_overdue(bench: Bench) -> None:
    await bench.submit(*["a"] * 5)
    full = Store(bench.quick(queue_depth_max=3), connections=1, application_name="test")
    for moved in (3, 0):
        dispatch = await full.dispatch(10, "scheduler:test")
        assert len(dispatch.tasks) == moved
        assert (dispatch.next_due_seconds or 0.0) < 0
    await full.close()


async def test_several_schedulers_dispatch_each_task_once(bench: Bench) -> None:
    await bench.submit(*["a"] * 500)
    async with bench.scheduler(dispatch_batch=20), bench.scheduler(dispatch_batch=20):
        await until(lambda: bench.sql("SELECT 1 FROM tasks WHERE state = 'SCHEDULED'") == [])
    dispatched = bench.sql("SELECT count(*) FROM task_events WHERE reason = 'dispatched'")
    assert dispatched == [(500,)]


async def test_unclaimed_hint_is_republished_with_growing_intervals(bench: Bench) -> None:
    (task_id,) = await bench.submit("a")
    again = [Reason.SUBMITTED, Reason.DISPATCHED, *[Reason.REPUBLISHED] * 3]
    async with bench.scheduler(hint_deadline_seconds=0.2, poll_seconds=0.05):
        await until(lambda: _has_reasons(bench, task_id, again))
    events = (await bench.story(task_id)).events[1:]
    waits = [(b.at - a.at).total_seconds() for a, b in pairwise(events)]
    for wait, least in zip(waits, (0.2, 0.4, 0.8), strict=True):
        assert wait >= least
    assert [hint.task_id for hint in await hinted(bench)] == [task_id] * 4


async def _has_reasons(bench: Bench, task_id: Any, reasons: list[Reason]) -> bool:
    return await bench.reasons(task_id) == reasons


async def test_lost_hints_are_republished(bench: Bench) -> None:
    ids = await bench.submit(*["a"] * 30)
    async with bench.scheduler(hint_deadline_seconds=FOREVER, sweep_batch=7):
        await bench.until_state(ids, State.QUEUED)
        await bench.queue._redis.flushall()
        await until(bench.queue.renew_generation)
    assert {hint.task_id for hint in await hinted(bench)} == set(ids)


async def test_backlog_counts_stop_at_the_cap_for_each_queue(bench: Bench) -> None:
    for queue in ("first", "second"):
        await bench.submit("a", "a", "a", queue=queue)
    depths = (await bench.store.backlog(2)).queues
    assert [(depth.queue, depth.due, depth.queued) for depth in depths] == [
        ("first", 2, 0),
        ("second", 2, 0),
    ]
    await bench.hint()
    depths = (await bench.store.backlog(2)).queues
    assert [(depth.queue, depth.due, depth.queued) for depth in depths] == [
        ("first", 0, 2),
        ("second", 0, 2),
    ]
    assert all(depth.oldest_seconds > 0 for depth in depths)


async def test_without_redis_the_backlog_stays_scheduled(bench: Bench) -> None:
    async with wire_to(bench.settings.redis_url) as wire:
        wire.down()
        ids = await bench.submit(*["a"] * 3)
        async with bench.scheduler(redis_url=wire.url) as scheduler:
            failed = {"loop": "dispatch", "result": "failed"}
            await until(lambda: bench.count("holdfast_loop_turns_total", **failed) >= 2)
            assert [await bench.state(task_id) for task_id in ids] == [State.SCHEDULED] * 3
            wire.heal()
            await bench.until_state(ids, State.QUEUED)
            await until(lambda: scheduler.loops.stalled() == {})
    assert len(await hinted(bench)) == 3


async def test_failing_redis_receives_at_most_one_batch(bench: Bench) -> None:
    async with (
        wire_to(bench.settings.redis_url) as wire,
        bench.scheduler(redis_url=wire.url, dispatch_batch=10, hint_deadline_seconds=FOREVER),
    ):
        await bench.until_state(await bench.submit("a"), State.QUEUED)
        wire.down()
        ids = await bench.submit(*["a"] * 100)
        failed = {"loop": "dispatch", "result": "failed"}
        await until(lambda: bench.count("holdfast_loop_turns_total", **failed) >= 3)
        queued = bench.sql("SELECT count(*) FROM tasks WHERE state = 'QUEUED'")
        assert queued in ([(1,)], [(11,)])
        wire.heal()
        await bench.until_state(ids, State.QUEUED)


async def test_dead_workers_are_detected_while_redis_is_stalled(bench: Bench) -> None:
    (grant,) = await bench.claimed("a")
    async with wire_to(bench.settings.redis_url) as wire:
        wire.stall()
        async with bench.scheduler(redis_url=wire.url, connect_timeout_seconds=3.0):
            await bench.until_state(grant.task_id, State.SCHEDULED)
            wire.heal()
    assert Reason.LOST in await bench.reasons(grant.task_id)
    assert (await bench.story(grant.task_id)).task.losses == 1


async def test_poison_task_ends_in_the_dead_letter(bench: Bench) -> None:
    (grant,) = await bench.claimed("a", max_losses=1)
    async with bench.scheduler():
        await bench.until_state(grant.task_id, State.FAILED)
    assert (await bench.reasons(grant.task_id))[-1] is Reason.LOST


async def test_no_live_worker_is_marked_dead_after_a_postgres_outage(bench: Bench) -> None:
    @bench.registry.task("endless")
    async def endless(ctx: Context, payload: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    (task_id,) = await bench.offer("endless")
    quick = {"lease_seconds": 1.0, "shutdown_grace_seconds": 0.1}
    async with wire_to(bench.settings.database_url) as wire:
        there = {**quick, "database_url": wire.url}
        async with bench.scheduler(**there), bench.worker(**there) as worker:
            await bench.until_state(task_id, State.RUNNING)
            steady = {"loop": "sweep", "result": "ok"}
            await until(lambda: bench.count("holdfast_loop_turns_total", **steady) >= 5)
            wire.stall()
            expired = "SELECT 1 FROM workers WHERE lease_expires_at < clock_timestamp()"
            await until(lambda: bench.sql(expired) == [(1,)])
            wire.heal()
            before = bench.count("holdfast_loop_turns_total", **steady)
            await until(lambda: bench.count("holdfast_loop_turns_total", **steady) > before + 10)
            assert bench.sql("SELECT dead_at FROM workers") == [(None,)]
            assert worker.stalled() == {}
    assert (await bench.story(task_id)).task.losses == 0


async def test_late_mark_dead_marks_no_worker(bench: Bench) -> None:
    """Regression found by database_frozen: sent before Postgres froze, executed after it."""
    worker = await bench.registered()
    bench.sql("UPDATE workers SET lease_expires_at = clock_timestamp()")
    now = await bench.store.clock()
    assert await bench.store.mark_dead(10, now - timedelta(seconds=5), 4.0) == []
    assert await bench.store.mark_dead(10, now, 4.0) == [worker]


async def test_prune_deletes_only_tasks_past_retention(bench: Bench) -> None:
    worker = await bench.registered(immortal=True)
    done, dead = await bench.claimed("a", "b", worker=worker)
    (waiting,) = await bench.submit("a", run_at=datetime(2090, 1, 1, tzinfo=UTC))
    await bench.store.finish([Success(done.task_id, done.epoch, "1")], worker)
    await bench.store.release([Failure(dead.task_id, dead.epoch, Reason.DISCARDED)], worker)
    async with bench.scheduler(retention_days=1e-7):
        await until(lambda: _gone(bench, done.task_id))
    assert await bench.state(dead.task_id) is State.FAILED
    assert await bench.state(waiting) is State.SCHEDULED
    assert bench.sql("SELECT count(*) FROM effects") == [(0,)]
    assert bench.sql(f"SELECT 1 FROM task_events WHERE task_id = '{done.task_id}'") == []


async def test_prune_continues_as_long_as_batches_are_full(bench: Bench) -> None:
    worker = await bench.registered(immortal=True)
    grants = await bench.claimed(*"abcd", worker=worker)
    ends = [Success(grant.task_id, grant.epoch, "1") for grant in grants]
    await bench.store.finish(ends, worker)
    async with bench.scheduler(retention_days=1e-7, sweep_batch=2):
        await until(lambda: bench.sql("SELECT count(*) FROM tasks") == [(0,)])


async def _gone(bench: Bench, task_id: Any) -> bool:
    return await bench.store.get(task_id) is None


async def test_stop_ends_the_longest_sleep(bench: Bench) -> None:
    async def run() -> None:
        async with bench.scheduler(poll_seconds=FOREVER, lease_seconds=FOREVER) as scheduler:
            await until(lambda: scheduler.loops.stalled() == {})
            await until(lambda: _listening(bench))

    await within(run(), bench.logged)
    assert bench.count("holdfast_loop_turns_total", loop="prune", result="ok") <= 1
    assert EventName.SCHEDULER_STOPPED in bench.logged()


async def test_scheduler_is_not_ready_before_it_runs(bench: Bench) -> None:
    async with bench.scheduler() as scheduler:
        assert isinstance(scheduler, Scheduler)
        assert set(scheduler.loops.stalled()) == {
            *("dispatch", "sweep", "hints", "poke", "janitor", "prune"),
        }
        await until(lambda: scheduler.loops.stalled() == {})
