"""Graceful stop: nothing starts, running handlers get the grace, the rest is released."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from bench import Bench
from waiting import until, within
from wire import wire_to

from holdfast.handlers import Context
from holdfast.handlers.cancellation import StopReason
from holdfast.model.lifecycle import Reason, State
from holdfast.runtime.supervision import LoopSupervisor
from holdfast.telemetry.event_names import EventName
from holdfast.worker.worker import Worker

Payload = dict[str, Any]


def dead_reason(bench: Bench, worker: Worker) -> str | None:
    ((reason,),) = bench.sql(f"SELECT dead_reason FROM workers WHERE id = '{worker.id}'")
    return str(reason) if reason else None


async def test_running_handlers_may_finish_within_the_grace(bench: Bench) -> None:
    released = asyncio.Event()

    @bench.registry.task("slow")
    async def slow(ctx: Context, payload: Payload) -> bool:
        await released.wait()
        return ctx.cancelled

    (task_id,) = await bench.offer("slow")
    async with bench.incarnation() as (worker, running):
        await bench.until_state(task_id, State.RUNNING)
        worker.stop()
        (later,) = await bench.offer("slow")
        await until(lambda: not bench.sql("SELECT 1 FROM tasks WHERE state = 'SCHEDULED'"))
        released.set()
        assert await running == 0
    story = await bench.story(task_id)
    assert story.effect is not None
    assert story.effect.result == b"false", "no stop was requested"
    assert await bench.state(later) is State.QUEUED, "nothing was started"
    assert dead_reason(bench, worker) == "stopped"


async def test_attempts_outliving_the_grace_are_released_without_a_failure(
    bench: Bench, released: threading.Event
) -> None:
    reasons: list[StopReason | None] = []

    @bench.registry.task("endless")
    async def endless(ctx: Context, payload: Payload) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            reasons.append(ctx.cancel_reason)

    @bench.registry.task("fails_when_stopped")
    async def fails_when_stopped(ctx: Context, payload: Payload) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("closed while cleaning up") from None

    @bench.registry.task("uncooperative")
    def uncooperative(ctx: Context, payload: Payload) -> None:
        released.wait(60)

    ids = await bench.offer("endless", "fails_when_stopped", "uncooperative", max_attempts=1)
    async with bench.incarnation(shutdown_grace_seconds=0.1) as (worker, running):
        await bench.until_state(ids, State.RUNNING)
        worker.stop()
        assert await running == 0
    for task_id in ids:
        task = (await bench.story(task_id)).task
        assert (task.state, task.attempt, task.handed_back) == (State.SCHEDULED, 1, 1)
    assert (await bench.error(ids[1]))["message"] == "closed while cleaning up"
    assert reasons == [StopReason.SHUTTING_DOWN]
    assert not released.is_set()
    assert bench.sql("SELECT count(*) FROM stale_writes") == [(0,)]


async def test_released_task_is_finished_by_another_worker(bench: Bench) -> None:
    @bench.registry.task("slow_at_first")
    async def slow_at_first(ctx: Context, payload: Payload) -> int:
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        return ctx.attempt

    (task_id,) = await bench.submit("slow_at_first", max_attempts=1)
    async with bench.scheduler():
        async with bench.incarnation(shutdown_grace_seconds=0.1) as (worker, running):
            await bench.until_state(task_id, State.RUNNING)
            async with bench.worker():
                worker.stop()
                assert await running == 0
                await bench.until_state(task_id, State.SUCCEEDED)
        await until(lambda: _no_consumers(bench))


async def _no_consumers(bench: Bench) -> bool:
    return await bench.queue.consumers("default") == []


async def test_handler_that_ignores_cancellation_cannot_block_the_stop(
    bench: Bench,
) -> None:
    released = asyncio.Event()

    @bench.registry.task("uncooperative")
    async def uncooperative(ctx: Context, payload: Payload) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    (task_id,) = await bench.offer("uncooperative")
    quick = {"shutdown_grace_seconds": 0.1, "statement_timeout_seconds": 0.5}
    async with bench.incarnation(**quick) as (worker, running):
        await bench.until_state(task_id, State.RUNNING)
        worker.stop()
        assert await within(running, bench.logged) == 0
        released.set()
    assert dead_reason(bench, worker) == "stopped", "a scheduler reclaims the task immediately"
    async with bench.scheduler():
        await until(lambda: not bench.sql("SELECT 1 FROM tasks WHERE state = 'RUNNING'"))
    assert Reason.LOST in await bench.reasons(task_id), "its handler had begun"


async def test_claim_that_is_not_answered_before_the_stop_loses_nothing(bench: Bench) -> None:
    @bench.registry.task("quick")
    async def quick(ctx: Context, payload: Payload) -> None: ...

    (first,) = await bench.offer("quick")
    settings = {"shutdown_grace_seconds": 0.1, "statement_timeout_seconds": 0.5}
    async with (
        wire_to(bench.settings.database_url) as wire,
        bench.incarnation(database_url=wire.url, **settings) as (worker, running),
    ):
        await bench.until_state(first, State.SUCCEEDED)
        (task_id,) = await bench.submit("quick", max_losses=1, max_attempts=1)
        wire.hold_reply_to(task_id.bytes)
        await bench.hint()
        await bench.until_state(task_id, State.RUNNING)
        worker.stop()
        assert await within(running, bench.logged) == 0
    assert dead_reason(bench, worker) == "stopped"
    async with bench.scheduler(), bench.worker():
        await bench.until_state(task_id, State.SUCCEEDED)
    story = await bench.story(task_id)
    assert [event.reason for event in story.events].count(Reason.RELEASED) == 1
    assert (story.task.losses, story.task.handed_back, story.task.attempt) == (0, 1, 2)


async def test_hints_read_while_stopping_are_requeued(bench: Bench) -> None:
    async with (
        wire_to(bench.settings.redis_url) as wire,
        bench.incarnation(redis_url=wire.url) as (worker, running),
    ):
        await until(lambda: _blocked(bench))
        (task_id,) = await bench.submit("any")
        wire.stall()
        await bench.hint()
        await until(lambda: _given(bench))
        worker.stop()
        wire.heal()
        assert await running == 0
    assert await bench.state(task_id) is State.QUEUED
    assert (await bench.queue._redis.xpending("holdfast:hints:default", "workers"))["pending"] == 0
    assert await bench.queue._redis.xlen("holdfast:hints:default") == 1


async def _blocked(bench: Bench) -> bool:
    return bool((await bench.queue._redis.info("clients"))["blocked_clients"])


async def _given(bench: Bench) -> bool:
    found = await bench.queue._redis.xpending("holdfast:hints:default", "workers")
    return bool(found["pending"])


async def test_grant_received_while_stopping_is_released_without_running(bench: Bench) -> None:
    begun: list[int] = []

    @bench.registry.task("counted")
    async def counted(ctx: Context, payload: Payload) -> None:
        begun.append(ctx.attempt)

    async with wire_to(bench.settings.database_url) as wire:
        (task_id,) = await bench.submit("counted", max_attempts=1)
        wire.lose_reply_to(task_id.bytes)
        async with bench.incarnation(database_url=wire.url) as (worker, running):
            await bench.hint()
            await wire.reply_lost.wait()
            worker.stop()
            assert await running == 0
    task = (await bench.story(task_id)).task
    assert (task.state, task.handed_back) == (State.SCHEDULED, 1)
    assert begun == []


@pytest.mark.parametrize("fault", ["down", "stall"])
async def test_worker_stops_without_postgres(bench: Bench, fault: str) -> None:
    released = asyncio.Event()

    @bench.registry.task("slow")
    async def slow(ctx: Context, payload: Payload) -> None:
        await released.wait()

    quick = {
        "shutdown_grace_seconds": 0.3,
        "statement_timeout_seconds": 0.4,
        "connect_timeout_seconds": 0.4,
    }
    async with (
        wire_to(bench.settings.database_url) as wire,
        bench.incarnation(database_url=wire.url, **quick) as (worker, running),
    ):
        (task_id,) = await bench.offer("slow")
        await bench.until_state(task_id, State.RUNNING)
        getattr(wire, fault)()
        (unclaimed,) = await bench.offer("slow")
        await until(lambda: EventName.CLAIM_RESENT in bench.logged())
        released.set()
        worker.stop()
        assert await within(running, bench.logged) == 0
    assert EventName.WORKER_NOT_RETIRED in bench.logged()
    assert await bench.state(unclaimed) in {State.QUEUED, State.RUNNING}
    assert dead_reason(bench, worker) is None


async def test_worker_stops_without_redis(bench: Bench) -> None:
    async with wire_to(bench.settings.redis_url) as wire:
        quick = {"redis_url": wire.url, "connect_timeout_seconds": 0.3}
        async with bench.incarnation(**quick) as (worker, running):
            wire.down()
            failed = {"loop": "claim", "result": "failed"}
            await until(lambda: bench.count("holdfast_loop_turns_total", **failed) > 0)
            worker.stop()
            assert await running == 0
    assert dead_reason(bench, worker) == "stopped"


async def test_stop_before_run_is_honoured(bench: Bench) -> None:
    nowhere = bench.quick(database_url="postgresql://x@127.0.0.1:1/x")
    worker = Worker(nowhere, bench.registry, bench.telemetry(nowhere, "worker"))
    running = asyncio.create_task(worker.run())
    await until(lambda: EventName.REGISTRATION_FAILED in bench.logged())
    assert set(worker.stalled()) == {"claim", "heartbeat"}
    worker.stop()
    assert await running == 0


async def test_registration_is_retried_five_times_per_second(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(_: LoopSupervisor, seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            worker.stop()

    monkeypatch.setattr(LoopSupervisor, "sleep", sleep)
    nowhere = bench.quick(database_url="postgresql://x@127.0.0.1:1/x")
    worker = Worker(nowhere, bench.registry, bench.telemetry(nowhere, "worker"))
    assert await within(worker.run(), bench.logged) == 0
    assert pauses == [0.2] * 3


async def test_heartbeats_are_sent_one_interval_apart(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    slept, sleep = asyncio.Event(), LoopSupervisor.sleep

    async def recorded(loops: LoopSupervisor, seconds: float) -> None:
        if seconds > 25:
            pauses.append(seconds)
            slept.set()
        await sleep(loops, seconds)

    monkeypatch.setattr(LoopSupervisor, "sleep", recorded)
    async with bench.worker(heartbeat_seconds=30.0, lease_seconds=90.0):
        await within(slept.wait(), bench.logged)
    assert 29.5 < pauses[0] <= 30.0, "an interval less the time that the heartbeat took"


async def test_worker_waits_for_postgres_to_start(bench: Bench) -> None:
    async with wire_to(bench.settings.database_url) as wire:
        wire.down()
        settings = bench.quick(database_url=wire.url)
        worker = Worker(settings, bench.registry, bench.telemetry(settings, "worker"))
        running = asyncio.create_task(worker.run())
        await until(lambda: EventName.REGISTRATION_FAILED in bench.logged())
        wire.heal()
        await until(lambda: worker.stalled() == {})
        worker.stop()
        assert await running == 0
