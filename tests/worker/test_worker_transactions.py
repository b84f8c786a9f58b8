"""ctx.transaction() in a real worker: one COMMIT, and every way to lose it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bench import Bench, bench_for
from sqlalchemy import text
from waiting import until
from wire import wire_to

from holdfast.handlers import Backoff, Context
from holdfast.model.lifecycle import Reason, State
from holdfast.settings import Settings
from holdfast.telemetry.event_names import EventName

Payload = dict[str, Any]
INSERT = text("INSERT INTO orders (attempt) VALUES (:attempt)")


@pytest.fixture
async def bench(settings: Settings) -> AsyncIterator[Bench]:
    async with bench_for(settings) as bench:
        bench.sql("CREATE TABLE orders (attempt int)")
        yield bench


def register_order(bench: Bench) -> tuple[asyncio.Event, asyncio.Event]:
    """Register a handler that inserts an order; return its events ``inserted`` and ``released``."""
    inserted, released = asyncio.Event(), asyncio.Event()

    @bench.registry.task("order", backoff=Backoff(base_seconds=0.1, jitter=0))
    async def order(ctx: Context, payload: Payload) -> str:
        async with ctx.transaction() as tx:
            await tx.execute(INSERT, {"attempt": ctx.attempt})
            inserted.set()
            if ctx.attempt == 1:
                await released.wait()
            tx.result = {"attempt": ctx.attempt}
        return "ignored: the transaction's result is the effect"

    return inserted, released


async def renewed(bench: Bench) -> None:
    """Wait until the worker's next heartbeat has been answered."""
    [(before,)] = bench.sql("SELECT lease_expires_at FROM workers")
    await until(lambda: bench.sql("SELECT lease_expires_at FROM workers") != [(before,)])


async def result(bench: Bench, task_id: Any) -> Any:
    effect = (await bench.story(task_id)).effect
    return json.loads(effect.result) if effect else None


async def test_effect_and_success_are_one_commit(bench: Bench) -> None:
    inserted, released = register_order(bench)
    (task_id,) = await bench.offer("order")
    async with bench.worker():
        await inserted.wait()
        assert bench.sql("SELECT * FROM orders") == []
        released.set()
        await bench.until_state(task_id, State.SUCCEEDED)
        succeeded = {"queue": "default", "name": "order", "outcome": "succeeded"}
        await until(lambda: bench.count("holdfast_attempts_finished_total", **succeeded) == 1)
    assert bench.sql("SELECT attempt FROM orders") == [(1,)]
    assert await result(bench, task_id) == {"attempt": 1}
    assert EventName.FINISH_RESENT not in bench.logged()


async def test_lost_lease_rolls_everything_back(bench: Bench) -> None:
    inserted, released = register_order(bench)
    (task_id,) = await bench.offer("order")
    async with bench.worker(heartbeat_seconds=60, lease_seconds=180):
        await inserted.wait()
        bench.sql(
            "UPDATE tasks SET state = 'SCHEDULED', epoch = epoch + 1, worker_id = NULL, "
            "claim_token = NULL"
        )
        released.set()
        lost = {"queue": "default", "name": "order", "outcome": "lost"}
        await until(lambda: bench.count("holdfast_attempts_finished_total", **lost) == 1)
        assert bench.sql("SELECT * FROM orders") == []
        await bench.hint()
        await bench.until_state(task_id, State.SUCCEEDED)
    assert bench.sql("SELECT attempt FROM orders") == [(2,)]
    assert await result(bench, task_id) == {"attempt": 2}


async def test_handler_goes_on_after_its_commit(bench: Bench) -> None:
    committed, released, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @bench.registry.task("order")
    async def order(ctx: Context, payload: Payload) -> None:
        async with ctx.transaction() as tx:
            await tx.execute(INSERT, {"attempt": ctx.attempt})
        committed.set()
        await released.wait()
        ended.set()

    await bench.offer("order")
    async with bench.worker(heartbeat_seconds=0.1, lease_seconds=60):
        await committed.wait()
        for _ in range(2):  # the second heartbeat was sent after the COMMIT
            await renewed(bench)
        released.set()
        await ended.wait()
        succeeded = {"queue": "default", "name": "order", "outcome": "succeeded"}
        await until(lambda: bench.count("holdfast_attempts_finished_total", **succeeded) == 1)


async def test_cancel_rolls_back(bench: Bench) -> None:
    inserted, _ = register_order(bench)
    (task_id,) = await bench.offer("order")
    async with bench.worker():
        await inserted.wait()
        await bench.store.cancel([task_id], "api:test")
        await bench.until_state(task_id, State.CANCELLED)
    assert bench.sql("SELECT * FROM orders") == []


async def test_stop_rolls_back_and_releases(bench: Bench) -> None:
    inserted, _ = register_order(bench)
    (task_id,) = await bench.offer("order")
    async with bench.worker(shutdown_grace_seconds=0.1):
        await inserted.wait()
    task = (await bench.story(task_id)).task
    assert (task.state, task.handed_back) == (State.SCHEDULED, 1)
    assert bench.sql("SELECT * FROM orders") == []


async def test_applied_commit_with_lost_reply_is_recognised(bench: Bench) -> None:
    inserted, released = register_order(bench)
    (task_id,) = await bench.offer("order")
    async with (
        wire_to(bench.settings.database_url) as wire,
        bench.worker(database_url=wire.url),
    ):
        await inserted.wait()
        wire.lose_reply_to(b"COMMIT")
        released.set()
        await wire.reply_lost.wait()
        succeeded = {"queue": "default", "name": "order", "outcome": "succeeded"}
        await until(lambda: bench.count("holdfast_attempts_finished_total", **succeeded) == 1)
    assert bench.sql("SELECT attempt FROM orders") == [(1,)]
    assert await result(bench, task_id) == {"attempt": 1}
    assert (await bench.reasons(task_id))[-1] is Reason.SUCCEEDED


async def test_connection_lost_before_commit_fails_the_attempt(bench: Bench) -> None:
    inserted, released = register_order(bench)
    (task_id,) = await bench.submit("order")
    async with bench.scheduler(), bench.worker():
        await inserted.wait()
        bench.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE '%:handlers' AND state = 'idle in transaction'"
        )
        released.set()
        await bench.until_state(task_id, State.SUCCEEDED)
    assert bench.sql("SELECT attempt FROM orders") == [(2,)]
    reasons = await bench.reasons(task_id)
    assert reasons.count(Reason.FAILED) == 1


async def test_transaction_in_a_plain_function_explains_the_error(bench: Bench) -> None:
    @bench.registry.task("plain")
    def plain(ctx: Context, payload: Payload) -> None:
        ctx.transaction()

    (task_id,) = await bench.offer("plain", max_attempts=1)
    async with bench.worker():
        await bench.until_state(task_id, State.FAILED)
    assert "write the handler as `async def`" in (await bench.error(task_id))["message"]
