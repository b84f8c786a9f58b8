"""Where a worker's times begin: its lease with a heartbeat sent, an attempt with its handler."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest
from bench import Bench
from waiting import until
from wire import wire_to

from holdfast.handlers import Context
from holdfast.model.lifecycle import Reason, State
from holdfast.queue.hints import GROUP
from holdfast.telemetry.event_names import EventName

Payload = dict[str, Any]

_LEFT = "SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float8 FROM workers"
_AGE = "SELECT extract(epoch FROM clock_timestamp() - claimed_at)::float8 FROM tasks"


def _register(bench: Bench) -> list[float]:
    """Register a handler; return the list of the seconds that its attempts had left."""
    left: list[float] = []

    @bench.registry.task("quick")
    async def quick(ctx: Context, payload: Payload) -> None:
        left.append(ctx.remaining_seconds())

    return left


def _lease_left(bench: Bench) -> float:
    return float(bench.sql(_LEFT)[0][0])


async def test_lease_runs_from_the_sending_of_a_heartbeat_answered_late(bench: Bench) -> None:
    _register(bench)

    async def read() -> bool:
        return bool((await bench.queue._redis.xpending("holdfast:hints:default", GROUP))["pending"])

    async with (
        wire_to(bench.settings.database_url) as wire,
        bench.worker(database_url=wire.url, lease_seconds=2.0, heartbeat_seconds=0.5),
    ):
        await bench.until_state(await bench.offer("quick"), State.SUCCEEDED)
        (before,) = bench.sql("SELECT lease_expires_at FROM workers")
        wire.hold_replies()
        await until(lambda: bench.sql("SELECT lease_expires_at FROM workers") > [before])
        with psycopg.connect(bench.settings.database_url) as blocker:
            blocker.execute("SELECT FROM workers FOR UPDATE")  # blocks the next heartbeat
            await until(lambda: _lease_left(bench) < 0.5)
            wire.heal()  # counted from its answer, the lease would last for another 2 s
            await until(lambda: _lease_left(bench) < 0)
            (task_id,) = await bench.offer("quick")
            await until(read)
            await asyncio.sleep(0.3)  # a claim takes milliseconds
            assert await bench.state(task_id) is State.QUEUED
        await bench.until_state(task_id, State.SUCCEEDED)
    assert EventName.INCARNATION_DEAD not in bench.logged()


async def test_claim_answered_late_does_not_renew_the_lease(bench: Bench) -> None:
    _register(bench)

    async with (
        wire_to(bench.settings.database_url) as wire,
        bench.worker(database_url=wire.url, lease_seconds=2.0, heartbeat_seconds=0.5),
    ):
        await bench.until_state(await bench.offer("quick"), State.SUCCEEDED)
        with psycopg.connect(bench.settings.database_url) as blocker:
            blocker.execute("SELECT FROM workers FOR UPDATE")  # blocks the next heartbeat
            wire.hold_replies()
            (first,) = await bench.offer("quick")
            await bench.until_state(first, State.RUNNING)
            await until(lambda: _lease_left(bench) < 0.5)
            wire.heal()  # the claim is answered; the lease goes on to run out
            await until(lambda: _lease_left(bench) < 0)
            (second,) = await bench.offer("quick")
            await asyncio.sleep(0.3)  # a claim takes milliseconds
            assert await bench.state(second) is State.QUEUED
        await bench.until_state([first, second], State.SUCCEEDED)
    assert EventName.INCARNATION_DEAD not in bench.logged()


async def _grant_late(bench: Bench, late_seconds: float, **settings: Any) -> UUID:
    """Hold the answers to a claim until it is so old; return its task, which has ended then."""
    async with (
        wire_to(bench.settings.database_url) as wire,
        bench.worker(database_url=wire.url, lease_seconds=30.0, **settings),
    ):
        await bench.until_state(await bench.offer("quick"), State.SUCCEEDED)
        wire.hold_replies()
        (task_id,) = await bench.offer("quick", timeout_seconds=0.3, max_attempts=1)
        await bench.until_state(task_id, State.RUNNING)
        await until(lambda: bench.sql(_AGE + f" WHERE id = '{task_id}'")[0][0] > late_seconds)
        wire.heal()
        await bench.until_state(task_id, State.SUCCEEDED, State.SCHEDULED, State.FAILED)
    return task_id


async def test_grant_later_than_its_timeout_has_its_whole_time(bench: Bench) -> None:
    left = _register(bench)
    task_id = await _grant_late(
        bench, 0.6, statement_timeout_seconds=0.3, timeout_grace_seconds=60.0
    )
    assert EventName.CLAIM_RESENT in bench.logged()
    assert (await bench.story(task_id)).task.state is State.SUCCEEDED
    assert left[-1] == pytest.approx(0.3, abs=0.01)


async def test_grant_too_late_for_its_time_is_handed_back_uncounted(bench: Bench) -> None:
    left = _register(bench)
    task_id = await _grant_late(bench, 2.5, timeout_grace_seconds=2.0)
    task = (await bench.story(task_id)).task
    assert (task.state, task.attempt, task.handed_back) == (State.SCHEDULED, 1, 1)
    assert (await bench.error(task_id))["type"] == "NotStarted"
    assert len(left) == 1, "the handler never began"


async def test_reclaim_does_not_count_an_attempt_whose_claim_was_not_answered(
    bench: Bench,
) -> None:
    """The worker's heartbeats were answered: the attempt once passed for one that overran."""
    left = _register(bench)
    quick = {"timeout_grace_seconds": 0.2, "statement_timeout_seconds": 30.0}
    async with (
        wire_to(bench.settings.database_url) as wire,
        bench.scheduler(**quick),
    ):
        (task_id,) = await bench.submit("quick", timeout_seconds=0.3, max_attempts=1)
        # The parameters of its claim; the text is sent before, and without an answer to it the
        # claim is not executed.
        wire.hold_reply_to(task_id.bytes)
        async with bench.worker(database_url=wire.url, **quick):
            await until(lambda: bench.sql("SELECT handed_back FROM tasks") == [(1,)])
            assert left == []
            wire.heal()
            await bench.until_state(task_id, State.SUCCEEDED)
    end = (await bench.story(task_id)).events[3]
    assert (end.actor, end.reason) == ("scheduler:test", Reason.RELEASED)
    assert len(left) == 1


async def test_reclaim_counts_an_attempt_that_ignores_its_timeout(bench: Bench) -> None:
    """Beside one that waits for its thread, and is claimed later."""
    released = asyncio.Event()

    @bench.registry.task("endless")
    async def endless(ctx: Context, payload: Payload) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    async with bench.scheduler(timeout_grace_seconds=0.2), bench.worker() as worker:
        pool = worker._executor._handlers._threads = ThreadPoolExecutor(1)
        thread = threading.Event()
        pool.submit(thread.wait, 60)

        @bench.registry.task("plain")
        def plain(ctx: Context, payload: Payload) -> None: ...

        (overrun,) = await bench.submit("endless", timeout_seconds=0.3, max_attempts=1)
        await bench.until_state(overrun, State.RUNNING)
        (waits,) = await bench.submit("plain", max_attempts=1)
        await bench.until_state(overrun, State.FAILED)
        released.set()
        thread.set()
        await bench.until_state(waits, State.SUCCEEDED)
    assert (await bench.reasons(overrun))[-1] is Reason.TIMED_OUT


async def test_heartbeats_say_which_attempts_have_begun(
    bench: Bench, released: threading.Event
) -> None:
    ended = asyncio.Event()

    @bench.registry.task("runs")
    async def runs(ctx: Context, payload: Payload) -> None:
        await ended.wait()

    @bench.registry.task("plain")
    def plain(ctx: Context, payload: Payload) -> None: ...

    def begun(task_id: UUID) -> bool:
        query = "SELECT begun_until >= claimed_at FROM workers, tasks WHERE tasks.id = "
        return bool(bench.sql(f"{query}'{task_id}'")[0][0])

    async def heard() -> None:
        before = bench.sql("SELECT lease_expires_at FROM workers")
        await until(lambda: bench.sql("SELECT lease_expires_at FROM workers") > before)

    async with bench.worker(heartbeat_seconds=0.1) as worker:
        pool = worker._executor._handlers._threads = ThreadPoolExecutor(1)
        pool.submit(released.wait, 60)
        (running,) = await bench.offer("runs")
        await bench.until_state(running, State.RUNNING)
        await until(lambda: begun(running))
        (waiting,) = await bench.offer("plain")
        await bench.until_state(waiting, State.RUNNING)
        await heard()
        await heard()  # the first may have been sent before
        assert begun(running)
        assert not begun(waiting)
        released.set()
        await bench.until_state(waiting, State.SUCCEEDED)
        ended.set()
        await bench.until_state(running, State.SUCCEEDED)


async def test_time_of_a_plain_function_begins_in_its_thread(
    bench: Bench, released: threading.Event
) -> None:
    left: list[float] = []

    @bench.registry.task("plain")
    def plain(ctx: Context, payload: Payload) -> None:
        left.append(ctx.remaining_seconds())

    async with bench.worker(timeout_grace_seconds=60.0) as worker:
        pool = worker._executor._handlers._threads = ThreadPoolExecutor(1)
        pool.submit(released.wait, 60)
        (waits,) = await bench.offer("plain", timeout_seconds=0.2, max_attempts=1)
        await bench.until_state(waits, State.RUNNING)
        await until(lambda: bench.sql(_AGE + f" WHERE id = '{waits}'")[0][0] > 0.4)
        released.set()
        await bench.until_state(waits, State.SUCCEEDED)
    assert left == [pytest.approx(0.2, abs=0.01)]


async def test_wait_for_a_thread_ends_uncounted(bench: Bench, released: threading.Event) -> None:
    begun: list[int] = []

    @bench.registry.task("plain")
    def plain(ctx: Context, payload: Payload) -> None:
        begun.append(ctx.attempt)

    async with bench.worker(timeout_grace_seconds=0.6) as worker:
        pool = worker._executor._handlers._threads = ThreadPoolExecutor(1)
        pool.submit(released.wait, 60)
        (waits,) = await bench.offer("plain", max_attempts=1)
        await bench.until_state(waits, State.SCHEDULED)
        released.set()
        pool.shutdown()
    task = (await bench.story(waits)).task
    assert (task.attempt, task.handed_back, begun) == (1, 1, [])
    assert (await bench.error(waits))["type"] == "NotStarted"


async def test_attempt_without_a_thread_is_handed_back_uncounted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    @bench.registry.task("plain")
    def plain(ctx: Context, payload: Payload) -> None: ...

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with bench.worker():
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            (task_id,) = await bench.offer("plain", max_attempts=1)
            await bench.until_state(task_id, State.SCHEDULED)
    task = (await bench.story(task_id)).task
    assert (task.attempt, task.handed_back) == (1, 1)
    assert (await bench.error(task_id))["message"] == "can't start new thread"
