"""Cooperative cancellation of handlers by cancel and timeout, and handlers that ignore it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from bench import Bench
from waiting import until

from holdfast.handlers import Backoff, Context
from holdfast.handlers.cancellation import StopReason
from holdfast.model.lifecycle import Reason, State

Payload = dict[str, Any]


async def test_cancel_stops_a_coroutine_at_its_next_await(bench: Bench) -> None:
    stops: list[Any] = []

    @bench.registry.task("endless")
    async def endless(ctx: Context, payload: Payload) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stops.append((ctx.cancelled, ctx.cancel_reason))

    (task_id,) = await bench.offer("endless")
    async with bench.worker():
        await bench.until_state(task_id, State.RUNNING)
        (answer,) = await bench.store.cancel([task_id], "api:test")
        assert (answer.done, answer.state) == (True, State.RUNNING)
        await bench.until_state(task_id, State.CANCELLED)
    assert stops == [(True, StopReason.CANCEL_REQUESTED)]
    assert (await bench.story(task_id)).effect is None
    assert (await bench.reasons(task_id))[-2:] == [Reason.CANCEL_REQUESTED, Reason.CANCELLED]


async def test_cancel_after_the_handler_succeeded_changes_nothing(bench: Bench) -> None:
    @bench.registry.task("stubborn")
    async def stubborn(ctx: Context, payload: Payload) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done all the same"
        return ""

    (task_id,) = await bench.offer("stubborn")
    async with bench.worker():
        await bench.until_state(task_id, State.RUNNING)
        await bench.store.cancel([task_id], "api:test")
        await bench.until_state(task_id, State.SUCCEEDED)
    effect = (await bench.story(task_id)).effect
    assert effect is not None
    assert effect.result == b'"done all the same"'


async def test_cancel_ends_the_retries_of_a_failing_handler(bench: Bench) -> None:
    @bench.registry.task("failing")
    async def failing(ctx: Context, payload: Payload) -> None:
        try:
            await ctx.wait_cancelled()
        except asyncio.CancelledError:
            raise ValueError("raised during clean-up") from None

    (task_id,) = await bench.offer("failing", max_attempts=9)
    async with bench.worker():
        await bench.until_state(task_id, State.RUNNING)
        await bench.store.cancel([task_id], "api:test")
        await bench.until_state(task_id, State.CANCELLED)
    assert (await bench.reasons(task_id))[-1] is Reason.FAILED


async def test_cooperative_thread_ends_promptly(bench: Bench) -> None:
    ended = threading.Event()

    @bench.registry.task("listening")
    def listening(ctx: Context, payload: Payload) -> None:
        assert ctx.cancelled_within(60)
        ended.set()

    (task_id,) = await bench.offer("listening")
    async with bench.worker(worker_concurrency=1):
        await bench.until_state(task_id, State.RUNNING)
        await bench.store.cancel([task_id], "api:test")
        await bench.until_state(task_id, State.CANCELLED)
        await until(ended.is_set)


async def test_timed_out_attempt_is_retried(bench: Bench) -> None:
    @bench.registry.task("slow_at_first", backoff=Backoff(base_seconds=0.1, jitter=0))
    async def slow_at_first(ctx: Context, payload: Payload) -> float:
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        return ctx.remaining_seconds()

    (task_id,) = await bench.submit("slow_at_first", timeout_seconds=0.3)
    async with bench.scheduler(timeout_grace_seconds=60), bench.worker():
        await bench.until_state(task_id, State.SUCCEEDED)
    story = await bench.story(task_id)
    reasons = [event.reason for event in story.events]
    assert reasons.count(Reason.TIMED_OUT) == 1
    assert story.task.attempt == 2
    timed_out = next(event for event in story.events if event.reason is Reason.TIMED_OUT)
    claimed = next(event for event in story.events if event.reason is Reason.CLAIMED)
    assert (timed_out.at - claimed.at).total_seconds() >= 0.25, (
        "the timeout starts before the claim"
    )
    assert timed_out.detail == {"error": {"type": "Stopped", "message": "timed out"}}


async def test_timeouts_count_as_failures(bench: Bench) -> None:
    @bench.registry.task("endless")
    async def endless(ctx: Context, payload: Payload) -> None:
        await asyncio.Event().wait()

    (task_id,) = await bench.offer("endless", timeout_seconds=0.1, max_attempts=1)
    async with bench.worker():
        await bench.until_state(task_id, State.FAILED)
    assert (await bench.reasons(task_id))[-1] is Reason.TIMED_OUT


async def test_uncooperative_thread_keeps_only_its_slot(
    bench: Bench, released: threading.Event
) -> None:
    @bench.registry.task("uncooperative")
    def uncooperative(ctx: Context, payload: Payload) -> str:
        released.wait(60)
        return "too late"

    @bench.registry.task("quick")
    async def quick(ctx: Context, payload: Payload) -> None: ...

    (uncooperative_id,) = await bench.offer("uncooperative", timeout_seconds=0.1, max_attempts=1)
    async with bench.worker(worker_concurrency=2) as worker:
        await bench.until_state(uncooperative_id, State.FAILED)
        others = await bench.offer(*["quick"] * 3)
        await bench.until_state(others, State.SUCCEEDED)
        await until(lambda: worker.slots.free == 1)
        released.set()
        await until(lambda: worker.slots.free == 2)
    assert (await bench.reasons(uncooperative_id))[-1] is Reason.TIMED_OUT
    assert (await bench.story(uncooperative_id)).effect is None
    assert bench.sql("SELECT count(*) FROM stale_writes") == [(0,)]


async def test_uncooperative_coroutine_is_reclaimed_and_fenced(bench: Bench) -> None:
    released = asyncio.Event()

    @bench.registry.task("uncooperative", backoff=Backoff(base_seconds=0.1, jitter=0))
    async def uncooperative(ctx: Context, payload: Payload) -> int:
        while ctx.attempt == 1 and not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return ctx.attempt

    (task_id,) = await bench.submit("uncooperative", timeout_seconds=0.2)
    async with bench.scheduler(timeout_grace_seconds=0.2), bench.worker():
        await bench.until_state(task_id, State.SUCCEEDED)
        released.set()
        await until(lambda: bench.count("holdfast_stale_writes_refused_total") == 1)
    story = await bench.story(task_id)
    assert story.effect is not None
    assert story.effect.result == b"2"
    assert len(bench.sql("SELECT * FROM stale_writes")) == 1
    end = next(event for event in story.events if event.reason is Reason.TIMED_OUT)
    assert end.actor == "scheduler:test", "the worker could not end it"
