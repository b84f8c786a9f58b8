"""Handlers that never end: their attempts do, and a worker without a usable slot leaves."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bench import Bench
from waiting import until

from holdfast.handlers import Context
from holdfast.model.lifecycle import Reason, State
from holdfast.telemetry.event_names import EventName
from holdfast.worker.worker import EXIT_DEAD

Payload = dict[str, Any]
SHORT = {"timeout_grace_seconds": 1.0}


@pytest.fixture
def stuck(bench: Bench, released: threading.Event) -> asyncio.Event:
    """Handlers ``thread`` and ``coroutine``, which end with the test only, and ``quick``."""
    free = asyncio.Event()

    @bench.registry.task("thread")
    def thread(ctx: Context, payload: Payload) -> None:
        released.wait(60)

    @bench.registry.task("coroutine")
    async def coroutine(ctx: Context, payload: Payload) -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    @bench.registry.task("quick")
    async def quick(ctx: Context, payload: Payload) -> None: ...

    return free


async def test_worker_with_only_dead_slots_leaves(bench: Bench, stuck: asyncio.Event) -> None:
    ids = await bench.submit("thread", "coroutine", timeout_seconds=0.2, max_attempts=1)
    async with (
        bench.scheduler(**SHORT),
        bench.incarnation(worker_concurrency=2, **SHORT) as (worker, running),
    ):
        await bench.until_state(ids, State.FAILED)
        await until(lambda: "slots" in worker.stalled() or running.done())
        assert await running == EXIT_DEAD
        stuck.set()
    for task_id in ids:
        assert (await bench.reasons(task_id))[-1] is Reason.TIMED_OUT
    assert EventName.SLOTS_USED_UP in bench.logged()
    assert bench.sql("SELECT dead_reason FROM workers") == [("stopped",)]
    assert bench.sql("SELECT sum(losses) FROM tasks") == [(0,)]


async def test_worker_with_one_slot_left_stays(bench: Bench, stuck: asyncio.Event) -> None:
    (dead,) = await bench.submit("thread", timeout_seconds=0.2, max_attempts=1)
    async with bench.scheduler(**SHORT), bench.worker(worker_concurrency=2, **SHORT) as worker:
        await bench.until_state(dead, State.FAILED)
        await until(lambda: worker.slots.dead == 1)
        (after,) = await bench.submit("quick")
        await bench.until_state(after, State.SUCCEEDED)
        await until(lambda: EventName.SLOT_DEAD in bench.logged())
        assert worker.stalled() == {}
        assert bench.count("holdfast_worker_slots_dead") == 1


async def test_handler_that_never_ends_after_its_commit_keeps_a_dead_slot(bench: Bench) -> None:
    free = asyncio.Event()

    @bench.registry.task("committed")
    async def committed(ctx: Context, payload: Payload) -> None:
        async with ctx.transaction():
            pass
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    (task_id,) = await bench.offer("committed", timeout_seconds=0.5)
    async with bench.incarnation(worker_concurrency=1, **SHORT) as (_, running):
        assert await running == EXIT_DEAD
        free.set()
    await bench.until_state(task_id, State.SUCCEEDED)
    assert EventName.SLOTS_USED_UP in bench.logged()


async def test_worker_with_fewer_slots_than_queues_leaves(
    bench: Bench, stuck: asyncio.Event
) -> None:
    await bench.submit("thread", timeout_seconds=0.2, max_attempts=1)
    both: dict[str, Any] = {"worker_concurrency": 2, "queues": ("default", "other")}
    async with bench.scheduler(**SHORT), bench.incarnation(**both, **SHORT) as (_, running):
        assert await running == EXIT_DEAD, "it needs a free slot for each queue"


async def test_quarantined_task_makes_a_worker_leave_that_is_never_idle(
    bench: Bench, stuck: asyncio.Event
) -> None:
    (dead,) = await bench.submit("thread", timeout_seconds=0.2, max_attempts=1)
    async with (
        bench.scheduler(**SHORT),
        bench.incarnation(worker_concurrency=4, **SHORT) as (worker, running),
    ):
        await bench.until_state(dead, State.FAILED)
        await until(lambda: worker.slots.only_dead)
        (quarantined,) = await bench.submit("quick", run_at=datetime.now(UTC) + timedelta(days=1))
        bench.sql(
            "UPDATE tasks SET losses = 2, attempt = 2, epoch = 4, due_at = now()"
            f" WHERE id = '{quarantined}'"
        )
        assert await running == EXIT_DEAD
        async with bench.worker():
            await bench.until_state(quarantined, State.SUCCEEDED)


@pytest.mark.parametrize("name", ["swallow", "swallow_thread"])
async def test_value_returned_after_the_timeout_is_no_success(bench: Bench, name: str) -> None:
    @bench.registry.task("swallow")
    async def swallow(ctx: Context, payload: Payload) -> str:
        try:
            await asyncio.Event().wait()
        except BaseException:  # noqa: BLE001 - it is what a handler may do
            return "late"
        return ""

    @bench.registry.task("swallow_thread")
    def swallow_thread(ctx: Context, payload: Payload) -> str:
        ctx.cancelled_within(60)
        return "late"

    (task_id,) = await bench.offer(name, timeout_seconds=0.2, max_attempts=1)
    async with bench.worker():
        await bench.until_state(task_id, State.FAILED)
    story = await bench.story(task_id)
    assert story.effect is None
    assert story.events[-1].reason is Reason.TIMED_OUT
    assert (await bench.error(task_id))["type"] == "Stopped"
