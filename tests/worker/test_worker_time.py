"""Where a worker's times begin: its lease with a heartbeat sent, an attempt with its claim."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from bench import Bench
from waiting import until
from wire import wire_to

from holdfast.handlers import Context
from holdfast.model.lifecycle import State
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


async def test_timeout_runs_from_the_granted_claim_and_not_from_the_resent_one(
    bench: Bench,
) -> None:
    left = _register(bench)
    async with (
        wire_to(bench.settings.database_url) as wire,
        bench.worker(database_url=wire.url, lease_seconds=30.0, statement_timeout_seconds=0.3),
    ):
        await bench.until_state(await bench.offer("quick"), State.SUCCEEDED)
        wire.hold_replies()
        (task_id,) = await bench.offer("quick", timeout_seconds=60.0)
        await bench.until_state(task_id, State.RUNNING)
        await until(lambda: EventName.CLAIM_RESENT in bench.logged())
        (age,) = bench.sql(_AGE + f" WHERE id = '{task_id}'")[0]
        wire.heal()
        await bench.until_state(task_id, State.SUCCEEDED)
    assert (await bench.story(task_id)).task.attempt == 1
    assert 0 < left[-1] <= 60.0 - age + 0.01, "the attempt had begun before its claim was resent"
