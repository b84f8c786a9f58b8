"""A graceful stop: nothing new, what runs may end, the rest is handed back, and it does end."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from bench import Bench
from waiting import until
from wire import wire_to

from holdfast.handlers import Context
from holdfast.handlers.cancellation import StopReason
from holdfast.model.lifecycle import State
from holdfast.telemetry.event_names import EventName
from holdfast.worker.worker import Worker

Payload = dict[str, Any]


def dead_reason(bench: Bench, worker: Worker) -> str | None:
    ((reason,),) = bench.sql(f"SELECT dead_reason FROM workers WHERE id = '{worker.id}'")
    return str(reason) if reason else None


async def test_running_handlers_may_end_within_the_grace(bench: Bench) -> None:
    let_go = asyncio.Event()

    @bench.registry.task("slow")
    async def slow(ctx: Context, payload: Payload) -> bool:
        await let_go.wait()
        return ctx.cancelled

    (task_id,) = await bench.offer("slow")
    async with bench.incarnation() as (worker, running):
        await bench.until_state(task_id, State.RUNNING)
        worker.stop()
        (later,) = await bench.offer("slow")
        await until(lambda: not bench.sql("SELECT 1 FROM tasks WHERE state = 'SCHEDULED'"))
        let_go.set()
        assert await running == 0
    story = await bench.story(task_id)
    assert story.effect is not None
    assert story.effect.result is False, "it was not told to stop"
    assert await bench.state(later) is State.QUEUED, "nothing new was begun"
    assert dead_reason(bench, worker) == "stopped"


async def test_what_outlives_the_grace_is_handed_back_at_no_cost(
    bench: Bench, let_go: threading.Event
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

    @bench.registry.task("deaf")
    def deaf(ctx: Context, payload: Payload) -> None:
        let_go.wait(60)

    ids = await bench.offer("endless", "fails_when_stopped", "deaf", max_attempts=1)
    async with bench.incarnation(shutdown_grace_seconds=0.1) as (worker, running):
        await bench.until_state(ids, State.RUNNING)
        worker.stop()
        assert await running == 0
    for task_id in ids:
        task = (await bench.story(task_id)).task
        assert (task.state, task.attempt, task.handed_back) == (State.SCHEDULED, 1, 1)
    assert (await bench.error(ids[1]))["message"] == "closed while cleaning up"
    assert reasons == [StopReason.SHUTTING_DOWN]
    assert not let_go.is_set()
    assert bench.sql("SELECT count(*) FROM stale_writes") == [(0,)]


async def test_a_handed_back_task_is_finished_by_another_worker(bench: Bench) -> None:
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


async def test_a_handler_that_refuses_to_be_cancelled_cannot_keep_the_worker(
    bench: Bench,
) -> None:
    let_go = asyncio.Event()

    @bench.registry.task("deaf")
    async def deaf(ctx: Context, payload: Payload) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    (task_id,) = await bench.offer("deaf")
    quick = {"shutdown_grace_seconds": 0.1, "statement_timeout_seconds": 0.5}
    async with bench.incarnation(**quick) as (worker, running):
        await bench.until_state(task_id, State.RUNNING)
        worker.stop()
        async with asyncio.timeout(10):
            assert await running == 0
        let_go.set()
    assert dead_reason(bench, worker) == "stopped", "a scheduler takes the task back at once"


async def test_hints_read_while_stopping_go_to_others(bench: Bench) -> None:
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


async def test_a_task_whose_claim_was_on_its_way_is_handed_back_unbegun(bench: Bench) -> None:
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
async def test_it_ends_without_postgres_too(bench: Bench, fault: str) -> None:
    let_go = asyncio.Event()

    @bench.registry.task("slow")
    async def slow(ctx: Context, payload: Payload) -> None:
        await let_go.wait()

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
        let_go.set()
        worker.stop()
        async with asyncio.timeout(20):
            assert await running == 0
    assert EventName.WORKER_NOT_RETIRED in bench.logged()
    assert await bench.state(unclaimed) in {State.QUEUED, State.RUNNING}
    assert dead_reason(bench, worker) is None


async def test_it_ends_without_redis_too(bench: Bench) -> None:
    async with wire_to(bench.settings.redis_url) as wire:
        quick = {"redis_url": wire.url, "connect_timeout_seconds": 0.3}
        async with bench.incarnation(**quick) as (worker, running):
            wire.down()
            failed = {"loop": "claim", "result": "failed"}
            await until(lambda: bench.count("holdfast_loop_turns_total", **failed) > 0)
            worker.stop()
            assert await running == 0
    assert dead_reason(bench, worker) == "stopped"


async def test_a_stop_before_the_beginning_is_obeyed(bench: Bench) -> None:
    nowhere = bench.quick(database_url="postgresql://x@127.0.0.1:1/x")
    worker = Worker(nowhere, bench.registry, bench.telemetry(nowhere, "worker"))
    running = asyncio.create_task(worker.run())
    await until(lambda: EventName.REGISTRATION_FAILED in bench.logged())
    assert set(worker.stalled()) == {"claim", "heartbeat"}
    worker.stop()
    assert await running == 0


async def test_it_waits_for_postgres_to_begin(bench: Bench) -> None:
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
