"""A task on its last life runs alone in its worker, and its worker does not wait for ever."""

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
class Stage:
    """Handlers that end when they are let go, and who ran beside whom."""

    bench: Bench
    running: set[UUID] = field(default_factory=set)
    beside: dict[UUID, set[UUID]] = field(default_factory=dict)
    let_go: dict[UUID, asyncio.Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        @self.bench.registry.task("held")
        async def held(ctx: Context, payload: Payload) -> None:
            with self._on_stage(ctx.task_id):
                await self.let_go.setdefault(ctx.task_id, asyncio.Event()).wait()

        @self.bench.registry.task("short")
        async def short(ctx: Context, payload: Payload) -> None:
            with self._on_stage(ctx.task_id):
                await asyncio.sleep(0.03)

    @contextlib.contextmanager
    def _on_stage(self, task: UUID) -> Iterator[None]:
        for other in self.running:
            self.beside[other].add(task)
        self.beside[task] = set(self.running)
        self.running.add(task)
        try:
            yield
        finally:
            self.running.discard(task)

    def release(self, task: UUID) -> None:
        self.let_go.setdefault(task, asyncio.Event()).set()


@pytest.fixture
def stage(bench: Bench) -> Stage:
    return Stage(bench)


async def quarantined(bench: Bench, *names: str, **fields: Any) -> list[UUID]:
    """New tasks that were lost twice of thrice; not hinted at yet."""
    ids = await bench.submit(*names, **fields)
    listed = ", ".join(f"'{task_id}'" for task_id in ids)
    bench.sql(f"UPDATE tasks SET losses = 2, attempt = 2, epoch = 4 WHERE id IN ({listed})")
    return ids


async def no_hints(bench: Bench) -> bool:
    return bool(await bench.queue._redis.xlen("holdfast:hints:default") == 0)


async def test_it_waits_for_those_before_it_and_those_after_it_wait(
    bench: Bench, stage: Stage
) -> None:
    (before,) = await bench.offer("held")
    async with bench.worker() as worker:
        await bench.until_state(before, State.RUNNING)
        (last,) = await quarantined(bench, "held")
        await bench.hint()
        await until(lambda: WAITS in bench.logged())
        (after,) = await bench.offer("held")
        assert await bench.state(last) is State.QUEUED
        stage.release(before)
        await bench.until_state(last, State.RUNNING)
        assert worker.slots.free == 0
        stage.release(last)
        await bench.until_state(after, State.RUNNING)
        stage.release(after)
        await bench.until_state([before, last, after], State.SUCCEEDED)
        await until(lambda: no_hints(bench))
    assert stage.beside == {before: set(), last: set(), after: set()}
    assert bench.logged().count(WAITS) == 1
    assert bench.sql("SELECT count(*) FROM tasks WHERE handed_back > 0") == [(0,)]


async def test_many_in_one_batch_run_one_after_the_other_on_all_workers(
    bench: Bench, stage: Stage
) -> None:
    last = await quarantined(bench, *["short"] * 12)
    others = await bench.submit(*["short"] * 40)
    async with bench.worker() as one, bench.worker() as two:
        await bench.hint()
        await bench.until_state([*last, *others], State.SUCCEEDED)
        await until(lambda: no_hints(bench))
    # Both workers share this process: one neighbour may be the other worker's.
    owners = {
        UUID(task): actor.removeprefix("worker:")
        for task, actor in bench.sql(
            "SELECT task_id::text, actor FROM task_events WHERE reason = 'claimed'"
        )
    }
    for task in last:
        assert owners[task] not in {owners[other] for other in stage.beside[task]}
    assert {owners[task] for task in last} == {str(one.id), str(two.id)}
    assert bench.sql("SELECT count(*) FROM tasks WHERE epoch NOT IN (2, 6)") == [(0,)]


async def _stops_waiting(
    bench: Bench, stage: Stage, end: Callable[[UUID], Any]
) -> tuple[UUID, UUID]:
    """A worker waits to be alone; ``end`` happens to the task; the worker reads on."""
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
        stage.release(before)
        stage.release(last)
        await bench.until_state(last, State.SUCCEEDED, State.CANCELLED)
        await until(lambda: no_hints(bench))
    return before, last


async def test_a_cancel_ends_the_waiting(bench: Bench, stage: Stage) -> None:
    async def cancel(task: UUID) -> None:
        await bench.store.cancel([task], "api:test")

    _, last = await _stops_waiting(bench, stage, cancel)
    assert last not in stage.beside


async def test_another_worker_ends_the_waiting(bench: Bench, stage: Stage) -> None:
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

    _, last = await _stops_waiting(bench, stage, run_elsewhere)
    assert last not in stage.beside


async def test_one_that_got_more_lives_meanwhile_need_not_wait(bench: Bench, stage: Stage) -> None:
    async def allow(task: UUID) -> None:
        bench.sql(f"UPDATE tasks SET max_losses = 9 WHERE id = '{task}'")
        await bench.until_state(task, State.RUNNING)

    before, last = await _stops_waiting(bench, stage, allow)
    assert before in stage.beside[last]


async def test_a_thread_that_does_not_end_is_not_waited_for(
    bench: Bench, stage: Stage, let_go: threading.Event
) -> None:
    @bench.registry.task("deaf")
    def deaf(ctx: Context, payload: Payload) -> None:
        let_go.wait(60)

    (deaf_id,) = await bench.offer("deaf", timeout_seconds=0.1, max_attempts=1)
    (last,) = await quarantined(bench, "held")
    async with bench.worker():
        await bench.until_state(deaf_id, State.FAILED)
        await bench.hint()
        left = EventName.QUARANTINED_TASK_SKIPPED
        await until(lambda: left in bench.logged())
        (after,) = await bench.offer("short")
        await bench.until_state(after, State.SUCCEEDED)
        assert await bench.state(last) is State.QUEUED
        assert await no_hints(bench)
        let_go.set()
        async with bench.scheduler():  # Redis has no generation: every hint is published again
            await bench.until_state(last, State.RUNNING)
        stage.release(last)
        await bench.until_state(last, State.SUCCEEDED)
    assert bench.logged().count(left) == 1


async def test_a_last_life_whose_thread_does_not_end_blocks_nobody(
    bench: Bench, stage: Stage, let_go: threading.Event
) -> None:
    @bench.registry.task("deaf")
    def deaf(ctx: Context, payload: Payload) -> None:
        let_go.wait(60)

    (last,) = await quarantined(bench, "deaf", timeout_seconds=0.1, max_attempts=1)
    async with bench.worker():
        await bench.hint()
        await bench.until_state(last, State.FAILED)
        (after,) = await bench.offer("short")
        await bench.until_state(after, State.SUCCEEDED)
        assert not let_go.is_set()
        let_go.set()


async def test_a_last_life_that_was_taken_away_blocks_nobody(bench: Bench, stage: Stage) -> None:
    let_go = asyncio.Event()

    @bench.registry.task("deaf")
    async def deaf(ctx: Context, payload: Payload) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    (last,) = await quarantined(bench, "deaf", timeout_seconds=0.1, max_attempts=1)
    async with bench.worker():
        await bench.hint()
        await bench.until_state(last, State.RUNNING)
        await until(lambda: _taken_back(bench))
        (after,) = await bench.offer("short")
        await bench.until_state(after, State.SUCCEEDED)
        let_go.set()


async def _taken_back(bench: Bench) -> bool:
    return len(await bench.store.reclaim(10, "scheduler:test")) == 1


async def test_who_stops_gives_the_hint_to_others(bench: Bench, stage: Stage) -> None:
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
            stage.release(last)
            stage.release(before)
            assert await running == 0
        await bench.until_state([before, last], State.SUCCEEDED)
        await until(lambda: no_hints(bench))


async def test_the_hint_of_one_that_died_waiting_goes_to_others(bench: Bench, stage: Stage) -> None:
    (before,) = await bench.submit("held")
    async with bench.scheduler(hint_deadline_seconds=60.0):
        async with bench.incarnation() as (_, running):
            await bench.until_state(before, State.RUNNING)
            (last,) = await quarantined(bench, "short")
            await until(lambda: WAITS in bench.logged())
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        stage.release(before)
        async with bench.worker():
            await bench.until_state([before, last], State.SUCCEEDED)
    assert Reason.REPUBLISHED not in await bench.reasons(last)


async def test_a_lost_reply_to_the_claim_grants_it_once(bench: Bench, stage: Stage) -> None:
    (last,) = await quarantined(bench, "short")
    async with wire_to(bench.settings.database_url) as wire:
        wire.lose_reply_to(last.bytes)
        async with bench.worker(database_url=wire.url):
            await bench.hint()
            await bench.until_state(last, State.SUCCEEDED)
            assert wire.reply_lost.is_set()
    assert (await bench.reasons(last)).count(Reason.CLAIMED) == 1
    assert EventName.CLAIM_ALREADY_COMMITTED in bench.logged()


async def test_a_stray_of_the_database_is_mended_before(bench: Bench, stage: Stage) -> None:
    """Idle by its own account, not by the database's: the heartbeat hands the stray back."""
    async with bench.worker(heartbeat_seconds=0.4) as worker:
        await bench.claimed("held", worker=worker.id)
        (last,) = await quarantined(bench, "short")
        await bench.hint()
        await bench.until_state(last, State.SUCCEEDED)
    assert WAITS in bench.logged()
    assert EventName.UNKNOWN_ATTEMPT_RELEASED in bench.logged()
    assert (await bench.story(last)).task.attempt == 3


async def test_an_ack_that_fails_is_made_up_for(bench: Bench, stage: Stage) -> None:
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
        stage.release(before)
        await bench.until_state(last, State.SUCCEEDED)
        wire.heal()
        await until(lambda: no_hints(bench))
