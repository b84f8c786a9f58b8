"""Quarantined tasks run exclusively, and no worker waits for exclusive use indefinitely."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from bench import Bench
from waiting import until
from wire import wire_to

from holdfast.handlers import Context
from holdfast.model.lifecycle import Reason, State
from holdfast.telemetry.event_names import EventName

Payload = dict[str, Any]
WAITS = EventName.QUARANTINED_TASK_WAITING


@dataclass
class HandlerProbe:
    """Handlers that wait until released, and a record of which tasks ran concurrently."""

    bench: Bench
    running: set[UUID] = field(default_factory=set)
    concurrent: dict[UUID, set[UUID]] = field(default_factory=dict)
    released: dict[UUID, asyncio.Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        @self.bench.registry.task("held")
        async def held(ctx: Context, payload: Payload) -> None:
            with self._tracked(ctx.task_id):
                await self.released.setdefault(ctx.task_id, asyncio.Event()).wait()

        @self.bench.registry.task("short")
        async def short(ctx: Context, payload: Payload) -> None:
            with self._tracked(ctx.task_id):
                await asyncio.sleep(0.03)

    @contextlib.contextmanager
    def _tracked(self, task: UUID) -> Iterator[None]:
        for other in self.running:
            self.concurrent[other].add(task)
        self.concurrent[task] = set(self.running)
        self.running.add(task)
        try:
            yield
        finally:
            self.running.discard(task)

    def release(self, task: UUID) -> None:
        self.released.setdefault(task, asyncio.Event()).set()


@pytest.fixture
def probe(bench: Bench) -> HandlerProbe:
    return HandlerProbe(bench)


async def quarantined(bench: Bench, *names: str, **fields: Any) -> list[UUID]:
    """Submit tasks with two of at most three losses, without hints."""
    ids = await bench.submit(*names, **fields)
    listed = ", ".join(f"'{task_id}'" for task_id in ids)
    bench.sql(f"UPDATE tasks SET losses = 2, attempt = 2, epoch = 4 WHERE id IN ({listed})")
    return ids


async def no_hints(bench: Bench) -> bool:
    return bool(await bench.queue._redis.xlen("holdfast:hints:default") == 0)


async def test_quarantined_task_waits_for_running_ones_and_delays_later_ones(
    bench: Bench, probe: HandlerProbe
) -> None:
    (before,) = await bench.offer("held")
    async with bench.worker() as worker:
        await bench.until_state(before, State.RUNNING)
        (last,) = await quarantined(bench, "held")
        await bench.hint()
        await until(lambda: WAITS in bench.logged())
        (after,) = await bench.offer("held")
        assert await bench.state(last) is State.QUEUED
        probe.release(before)
        await bench.until_state(last, State.RUNNING)
        assert worker.slots.free == 0
        probe.release(last)
        await bench.until_state(after, State.RUNNING)
        probe.release(after)
        await bench.until_state([before, last, after], State.SUCCEEDED)
        await until(lambda: no_hints(bench))
    assert probe.concurrent == {before: set(), last: set(), after: set()}
    assert bench.logged().count(WAITS) == 1
    assert bench.sql("SELECT count(*) FROM tasks WHERE handed_back > 0") == [(0,)]


async def test_quarantined_tasks_of_a_batch_run_serially_on_all_workers(
    bench: Bench, probe: HandlerProbe
) -> None:
    last = await quarantined(bench, *["short"] * 12)
    others = await bench.submit(*["short"] * 40)
    async with bench.worker() as one, bench.worker() as two:
        await bench.hint()
        await bench.until_state([*last, *others], State.SUCCEEDED)
        await until(lambda: no_hints(bench))
    # Both workers share this process: one concurrent task may be the other worker's.
    owners = {
        UUID(task): actor.removeprefix("worker:")
        for task, actor in bench.sql(
            "SELECT task_id::text, actor FROM task_events WHERE reason = 'claimed'"
        )
    }
    for task in last:
        assert owners[task] not in {owners[other] for other in probe.concurrent[task]}
    assert {owners[task] for task in last} == {str(one.id), str(two.id)}
    assert bench.sql("SELECT count(*) FROM tasks WHERE epoch NOT IN (2, 6)") == [(0,)]


async def _stops_waiting(
    bench: Bench, probe: HandlerProbe, end: Callable[[UUID], Any]
) -> tuple[UUID, UUID]:
    """Let ``end`` happen to a task its worker waits to run exclusively; the worker reads on."""
    (before,) = await bench.offer("held")
    async with bench.worker():
        await bench.until_state(before, State.RUNNING)
        (last,) = await quarantined(bench, "held")
        await bench.hint()
        await until(lambda: WAITS in bench.logged())
        await end(last)
        (after,) = await bench.offer("short")
        await bench.until_state(after, State.SUCCEEDED)
        assert await bench.state(before) is State.RUNNING
        probe.release(before)
        probe.release(last)
        await bench.until_state(last, State.SUCCEEDED, State.CANCELLED)
        await until(lambda: no_hints(bench))
    return before, last


async def test_cancel_ends_the_wait_for_exclusive_use(bench: Bench, probe: HandlerProbe) -> None:
    async def cancel(task: UUID) -> None:
        await bench.store.cancel([task], "api:test")

    _, last = await _stops_waiting(bench, probe, cancel)
    assert last not in probe.concurrent


async def test_run_on_another_worker_ends_the_wait_for_exclusive_use(
    bench: Bench, probe: HandlerProbe
) -> None:
    async def run_elsewhere(task: UUID) -> None:
        bench.sql("UPDATE tasks SET hint_deadline = clock_timestamp() WHERE state = 'QUEUED'")
        (hint,) = await bench.store.republish(10, "scheduler:test")
        other = await bench.registered(immortal=True)
        claimed = await bench.store.claim([hint], other, hint.task_id, exclusive=True)
        assert [grant.task_id for grant in claimed.grants] == [task]
        bench.sql(
            f"UPDATE tasks SET state = 'SUCCEEDED', epoch = 6, worker_id = NULL, "
            f"claim_token = NULL, finished_at = clock_timestamp() WHERE id = '{task}'"
        )

    _, last = await _stops_waiting(bench, probe, run_elsewhere)
    assert last not in probe.concurrent


async def test_raised_max_losses_end_the_wait_for_exclusive_use(
    bench: Bench, probe: HandlerProbe
) -> None:
    async def allow(task: UUID) -> None:
        bench.sql(f"UPDATE tasks SET max_losses = 9 WHERE id = '{task}'")
        await bench.until_state(task, State.RUNNING)

    before, last = await _stops_waiting(bench, probe, allow)
    assert before in probe.concurrent[last]


async def test_quarantined_task_is_skipped_if_a_thread_does_not_end(
    bench: Bench, probe: HandlerProbe, released: threading.Event
) -> None:
    @bench.registry.task("uncooperative")
    def uncooperative(ctx: Context, payload: Payload) -> None:
        released.wait(60)

    (uncooperative_id,) = await bench.offer("uncooperative", timeout_seconds=0.1, max_attempts=1)
    (last,) = await quarantined(bench, "held")
    async with bench.worker():
        await bench.until_state(uncooperative_id, State.FAILED)
        await bench.hint()
        left = EventName.QUARANTINED_TASK_SKIPPED
        await until(lambda: left in bench.logged())
        (after,) = await bench.offer("short")
        await bench.until_state(after, State.SUCCEEDED)
        assert await bench.state(last) is State.QUEUED
        assert await no_hints(bench)
        released.set()
        async with bench.scheduler():  # Redis has no generation: all hints are republished
            await bench.until_state(last, State.RUNNING)
        probe.release(last)
        await bench.until_state(last, State.SUCCEEDED)
    assert bench.logged().count(left) == 1


async def test_quarantined_task_whose_thread_does_not_end_blocks_no_others(
    bench: Bench, probe: HandlerProbe, released: threading.Event
) -> None:
    @bench.registry.task("uncooperative")
    def uncooperative(ctx: Context, payload: Payload) -> None:
        released.wait(60)

    (last,) = await quarantined(bench, "uncooperative", timeout_seconds=0.1, max_attempts=1)
    async with bench.worker():
        await bench.hint()
        await bench.until_state(last, State.FAILED)
        (after,) = await bench.offer("short")
        await bench.until_state(after, State.SUCCEEDED)
        assert not released.is_set()
        released.set()


async def test_reclaimed_quarantined_task_blocks_no_others(
    bench: Bench, probe: HandlerProbe
) -> None:
    released = asyncio.Event()

    @bench.registry.task("uncooperative")
    async def uncooperative(ctx: Context, payload: Payload) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    (last,) = await quarantined(bench, "uncooperative", timeout_seconds=0.1, max_attempts=1)
    async with bench.worker():
        await bench.hint()
        await bench.until_state(last, State.RUNNING)
        await until(lambda: _taken_back(bench))
        (after,) = await bench.offer("short")
        await bench.until_state(after, State.SUCCEEDED)
        released.set()


async def _taken_back(bench: Bench) -> bool:
    return len(await bench.store.reclaim(10, "scheduler:test")) == 1


async def test_stopping_worker_requeues_the_held_hint(bench: Bench, probe: HandlerProbe) -> None:
    (before,) = await bench.offer("held")
    async with bench.incarnation() as (worker, running):
        await bench.until_state(before, State.RUNNING)
        (last,) = await quarantined(bench, "held")
        await bench.hint()
        await until(lambda: WAITS in bench.logged())
        assert (await bench.queue._redis.xpending("holdfast:hints:default", "workers"))[
            "pending"
        ] == 1
        worker.stop()
        async with bench.worker():
            await bench.until_state(last, State.RUNNING)
            assert not running.done(), "its own handler still has its grace"
            probe.release(last)
            probe.release(before)
            assert await running == 0
        await bench.until_state([before, last], State.SUCCEEDED)
        await until(lambda: no_hints(bench))


async def test_held_hint_of_a_dead_worker_is_drained(bench: Bench, probe: HandlerProbe) -> None:
    (before,) = await bench.submit("held")
    async with bench.scheduler(hint_deadline_seconds=60.0):
        async with bench.incarnation() as (_, running):
            await bench.until_state(before, State.RUNNING)
            (last,) = await quarantined(bench, "short")
            await until(lambda: WAITS in bench.logged())
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        probe.release(before)
        async with bench.worker():
            await bench.until_state([before, last], State.SUCCEEDED)
    assert Reason.REPUBLISHED not in await bench.reasons(last)


async def test_quarantined_claim_with_lost_reply_is_granted_once(
    bench: Bench, probe: HandlerProbe
) -> None:
    (last,) = await quarantined(bench, "short")
    async with wire_to(bench.settings.database_url) as wire:
        wire.lose_reply_to(last.bytes)
        async with bench.worker(database_url=wire.url):
            await bench.hint()
            await bench.until_state(last, State.SUCCEEDED)
            assert wire.reply_lost.is_set()
    assert (await bench.reasons(last)).count(Reason.CLAIMED) == 1
    assert EventName.CLAIM_ALREADY_COMMITTED in bench.logged()


async def test_orphan_is_released_before_a_quarantined_task_runs(
    bench: Bench, probe: HandlerProbe
) -> None:
    """The worker is idle but the database records an attempt: the heartbeat releases the orphan."""
    async with bench.worker(heartbeat_seconds=0.4) as worker:
        await bench.claimed("held", worker=worker.id)
        (last,) = await quarantined(bench, "short")
        await bench.hint()
        await bench.until_state(last, State.SUCCEEDED)
    assert WAITS in bench.logged()
    assert EventName.UNKNOWN_ATTEMPT_RELEASED in bench.logged()
    assert (await bench.story(last)).task.attempt == 3


async def test_failed_ack_of_a_quarantined_hint_is_repeated(
    bench: Bench, probe: HandlerProbe
) -> None:
    (before,) = await bench.offer("held")
    async with (
        wire_to(bench.settings.redis_url) as wire,
        bench.worker(redis_url=wire.url),
    ):
        await bench.until_state(before, State.RUNNING)
        (last,) = await quarantined(bench, "short")
        await bench.hint()
        await until(lambda: WAITS in bench.logged())
        wire.down()
        probe.release(before)
        await bench.until_state(last, State.SUCCEEDED)
        wire.heal()
        await until(lambda: no_hints(bench))
