"""Workers that lost their lease, and what the heartbeat reconciles."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import psycopg
from bench import Bench
from waiting import until
from wire import wire_to

from holdfast.handlers import Context
from holdfast.handlers.cancellation import StopReason
from holdfast.model.lifecycle import Reason, State
from holdfast.queue.hints import GROUP
from holdfast.telemetry.event_names import EventName
from holdfast.worker.worker import EXIT_DEAD

Payload = dict[str, Any]

_DIES = EventName.INCARNATION_DEAD
_WAITS_FOR_A_LOCK = """SELECT count(*) FROM pg_stat_activity
  WHERE datname = current_database() AND wait_event_type = 'Lock'"""


def register_endless(bench: Bench) -> list[StopReason | None]:
    """Register a handler that runs until stopped; return the list of its stop reasons."""
    reasons: list[StopReason | None] = []

    @bench.registry.task("endless")
    async def endless(ctx: Context, payload: Payload) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            reasons.append(ctx.cancel_reason)

    return reasons


async def test_incarnation_marked_dead_stops_with_its_exit_code(bench: Bench) -> None:
    reasons = register_endless(bench)
    ids = await bench.offer("endless", "endless")
    async with bench.incarnation() as (worker, running):
        await bench.until_state(ids, State.RUNNING)
        bench.sql("UPDATE workers SET dead_at = clock_timestamp(), dead_reason = 'test'")
        assert await running == EXIT_DEAD
    assert reasons == [StopReason.LEASE_LOST] * 2
    states = [await bench.state(task_id) for task_id in ids]
    assert states == [State.RUNNING] * 2, "a dead worker writes nothing: a scheduler reclaims them"
    taken = await bench.store.reclaim(10, "scheduler:test")
    assert {end.task_id for end in taken} == set(ids)
    assert all(end.owner == worker.id for end in taken)


async def test_marked_dead_while_a_claim_is_in_flight(bench: Bench) -> None:
    reasons = register_endless(bench)
    async with wire_to(bench.settings.database_url) as wire:
        (task_id,) = await bench.submit("endless")
        wire.lose_reply_to(task_id.bytes)
        async with bench.incarnation(database_url=wire.url) as (_, running):
            await bench.hint()
            await wire.reply_lost.wait()
            wire.down()
            bench.sql("UPDATE workers SET dead_at = clock_timestamp(), dead_reason = 'test'")
            wire.heal()
            assert await running == EXIT_DEAD
    assert reasons in ([], [StopReason.LEASE_LOST])
    (end,) = await bench.store.reclaim(10, "scheduler:test")
    assert end.task_id == task_id


async def test_grants_to_a_dead_incarnation_are_dropped_and_recorded(bench: Bench) -> None:
    """Regression, found by storm, seed 70012: such a claim had no span (S13)."""
    reasons = register_endless(bench)
    (task_id,) = await bench.submit("endless")
    dispatched = await bench.store.dispatch(1, "scheduler:test")
    async with bench.incarnation() as (_, running):
        with psycopg.connect(bench.settings.database_url) as blocker:
            blocker.execute("SELECT FROM tasks FOR UPDATE")  # blocks the claim
            await bench.queue.publish(dispatched.tasks)
            await until(lambda: bench.sql(_WAITS_FOR_A_LOCK) == [(1,)])
            bench.sql("UPDATE workers SET dead_at = clock_timestamp(), dead_reason = 'test'")
            await until(lambda: _DIES in bench.logged())
        assert await running == EXIT_DEAD
    assert await bench.state(task_id) is State.RUNNING
    assert reasons == []
    assert bench.count("holdfast_attempts_claimed_total", queue="default") == 1
    assert bench.count("holdfast_leases_lost_total") == 1


async def test_nothing_is_claimed_while_the_lease_may_have_expired(bench: Bench) -> None:
    """Regression, found by storm, seed 70012: claims of a dead worker are lost repeatedly (S9)."""

    @bench.registry.task("quick")
    async def quick(ctx: Context, payload: Payload) -> None:
        pass

    async def read() -> bool:
        return bool((await bench.queue._redis.xpending("holdfast:hints:default", GROUP))["pending"])

    over = "SELECT 1 FROM workers WHERE lease_expires_at < clock_timestamp()"
    async with bench.worker(lease_seconds=0.9, heartbeat_seconds=0.3):
        await bench.until_state(await bench.offer("quick"), State.SUCCEEDED)
        with psycopg.connect(bench.settings.database_url) as blocker:
            blocker.execute("SELECT FROM workers FOR UPDATE")  # blocks the heartbeat
            await until(lambda: bench.sql(over) == [(1,)])
            (task_id,) = await bench.offer("quick")
            await until(read)
            await asyncio.sleep(0.3)  # a claim takes milliseconds
            assert await bench.state(task_id) is State.QUEUED
        await bench.until_state([task_id], State.SUCCEEDED)
    assert _DIES not in bench.logged()


async def test_lost_attempt_is_stopped_and_its_worker_continues(
    bench: Bench,
) -> None:
    reasons = register_endless(bench)
    (task_id, other) = await bench.offer("endless", "endless")
    async with bench.incarnation(shutdown_grace_seconds=0.1) as (worker, running):
        await bench.until_state([task_id, other], State.RUNNING)
        bench.sql(
            "UPDATE tasks SET state = 'SCHEDULED', epoch = epoch + 1, worker_id = NULL, "
            f"claim_token = NULL, due_at = clock_timestamp() + '1 hour' WHERE id = '{task_id}'"
        )
        await until(lambda: reasons == [StopReason.LEASE_LOST])
        assert await bench.state(other) is State.RUNNING
        assert bench.count("holdfast_leases_lost_total") == 1
        worker.stop()
        assert await running == 0
    assert bench.sql("SELECT count(*) FROM stale_writes") == [(0,)]


async def test_orphan_attempt_is_released_by_the_heartbeat(bench: Bench) -> None:
    async with bench.worker() as worker:
        await bench.claimed("any", "any", worker=worker.id)
        await until(lambda: bench.sql("SELECT 1 FROM tasks WHERE state = 'RUNNING'") == [])
    rows = bench.sql("SELECT state, attempt, handed_back FROM tasks")
    assert rows == [("SCHEDULED", 1, 1)] * 2


async def test_running_attempts_are_never_treated_as_orphans(bench: Bench) -> None:
    @bench.registry.task("short")
    async def short(ctx: Context, payload: Payload) -> None:
        await asyncio.sleep(0.02)

    ids = await bench.submit(*["short"] * 500)
    async with bench.scheduler(), bench.worker(heartbeat_seconds=0.001):
        await until(lambda: bench.sql("SELECT count(*) FROM effects") == [(500,)])
    assert len(ids) == 500
    assert bench.sql("SELECT count(*) FROM tasks WHERE attempt <> 1 OR handed_back > 0") == [(0,)]
    assert not {EventName.UNKNOWN_ATTEMPT_RELEASED, EventName.ATTEMPT_CRASHED} & set(bench.logged())
    assert bench.sql("SELECT count(*) FROM stale_writes") == [(0,)]


async def test_lease_is_renewed_while_all_slots_and_transactions_are_busy(
    bench: Bench,
) -> None:
    reasons = register_endless(bench)

    @bench.registry.task("holds_a_connection")
    async def holds_a_connection(ctx: Context, payload: Payload) -> None:
        async with ctx.transaction():
            await asyncio.Event().wait()

    ids = await bench.offer("endless", "holds_a_connection", "holds_a_connection")
    quick = {"worker_concurrency": 3, "transaction_connections": 1, "shutdown_grace_seconds": 0.1}
    async with bench.scheduler(), bench.incarnation(**quick) as (worker, running):
        await bench.until_state(ids[0], State.RUNNING)
        (registered,) = bench.sql("SELECT lease_expires_at FROM workers")
        await until(
            lambda: (
                bench.sql(
                    "SELECT 1 FROM workers "
                    "WHERE started_at < clock_timestamp() - interval '2 seconds'"
                )
                == [(1,)]
            )
        )
        assert bench.sql("SELECT lease_expires_at FROM workers") > [registered]
        assert bench.sql("SELECT count(*) FROM workers WHERE dead_at IS NOT NULL") == [(0,)]
        worker.stop()
        assert await running == 0
    assert reasons == [StopReason.SHUTTING_DOWN]


async def test_tasks_of_a_dead_worker_are_finished_by_others(bench: Bench) -> None:
    @bench.registry.task("counted")
    async def counted(ctx: Context, payload: Payload) -> int:
        return ctx.attempt

    (grant,) = await bench.claimed("counted")
    unread = await bench.offer("counted", "counted")
    await bench.queue.create_generation()  # otherwise all hints would be republished
    ghost = await bench.registered()
    await bench.queue.read(ghost, ["default"], 10, block_seconds=0.01)
    assert len(await bench.queue.read(ghost, ["default"], 10, block_seconds=0.01)) == 2
    async with bench.scheduler(), bench.worker() as worker:
        await bench.until_state([grant.task_id, *unread], State.SUCCEEDED)
        await until(lambda: _only(bench, worker.id))
    story = await bench.story(grant.task_id)
    assert story.task.losses == 1
    assert Reason.LOST in [event.reason for event in story.events]
    for task_id in unread:
        task = (await bench.story(task_id)).task
        assert (task.attempt, task.losses) == (1, 0), "its hint was drained to other workers"


async def _only(bench: Bench, worker: UUID) -> bool:
    return await bench.queue.consumers("default") == [worker]
