"""Spans of handlers, and that unsampled tasks create none."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from bench import Bench
from opentelemetry import trace
from otlp_receiver import Receiver
from sqlalchemy import text
from task_traces import SECRET, Payload, attempts, register_echo, sampled, submit
from waiting import until

from holdfast.handlers import Context
from holdfast.model.lifecycle import State
from holdfast.telemetry import traceparent
from holdfast.telemetry.trace_context import new_root


async def test_handler_spans_nest_in_coroutines_and_threads(
    traced: Bench, collector: Receiver
) -> None:
    seen: dict[str, str | None] = {}

    @traced.registry.task("steps")
    async def steps(ctx: Context, payload: Payload) -> None:
        seen["attempt"] = ctx.traceparent
        with ctx.span("outer", pixels=3) as span:
            span.set_attribute("colour", "red")
            async with asyncio.TaskGroup() as group:
                group.create_task(inner(ctx))
        with pytest.raises(ZeroDivisionError), ctx.span("broken"):
            raise ZeroDivisionError(SECRET)

    async def inner(ctx: Context) -> None:
        with ctx.span("inner"):
            seen["inner"] = ctx.traceparent
            assert trace.get_current_span().is_recording()

    @traced.registry.task("threaded")
    def threaded(ctx: Context, payload: Payload) -> None:
        with ctx.span("in a thread"):
            seen["thread"] = ctx.traceparent

    create = sampled()
    ids = await traced.offer("steps", "threaded", traceparent=create)
    async with traced.worker():
        await traced.until_state(ids, State.SUCCEEDED)
    (process,) = await attempts(collector, traced, ids[0])
    outer, inside = collector.one("outer"), collector.one("inner")
    assert process.traceparent == seen["attempt"]
    assert outer.attributes == {"pixels": 3, "colour": "red"}
    assert (outer.parent_id, inside.parent_id) == (process.span_id, outer.span_id)
    assert inside.traceparent == seen["inner"]
    broken = collector.one("broken")
    assert (broken.error, broken.attributes) == (True, {"error.type": "ZeroDivisionError"})
    (thread,) = await attempts(collector, traced, ids[1])
    assert collector.one("in a thread").parent_id == thread.span_id
    assert collector.one("in a thread").traceparent == seen["thread"]
    assert SECRET not in str(collector.spans)


async def test_sql_of_a_transaction(traced: Bench, collector: Receiver) -> None:
    traced.sql("CREATE TABLE orders (id int PRIMARY KEY, note text)")

    @traced.registry.task("order")
    async def order(ctx: Context, payload: Payload) -> None:
        async with ctx.transaction() as tx:
            insert = text(f"INSERT INTO orders VALUES (:id, '{SECRET}')")
            await tx.execute(insert, {"id": payload["id"]})

    create = sampled()
    ids = [
        (await traced.offer("order", traceparent=create, payload={"id": 7}, max_attempts=1))[0]
        for _ in range(2)
    ]
    async with traced.worker(worker_concurrency=1):
        await traced.until_state(ids, State.SUCCEEDED, State.FAILED)
    (first,) = await attempts(collector, traced, ids[0])
    block = collector.named("transaction")[0]
    insert = collector.named("INSERT")[0]
    assert (block.kind, block.parent_id) == ("CLIENT", first.span_id)
    assert (insert.kind, insert.parent_id) == ("CLIENT", block.span_id)
    assert insert.attributes["db.system.name"] == "postgresql"
    assert insert.attributes["db.query.text"].startswith("INSERT INTO orders VALUES ($1")
    assert collector.one("COMMIT").parent_id == block.span_id
    assert {"finish", "INSERT", "COMMIT"} <= {
        span.name for span in collector.spans if span.parent_id == block.span_id
    }
    refused = collector.named("INSERT")[1]
    assert refused.attributes["db.response.status_code"] == "23505"
    assert refused.error
    assert collector.one("ROLLBACK").parent_id == refused.parent_id
    assert SECRET not in str(collector.spans)


async def test_transaction_that_lost_its_lease(traced: Bench, collector: Receiver) -> None:
    inside, released = asyncio.Event(), asyncio.Event()

    @traced.registry.task("order")
    async def order(ctx: Context, payload: Payload) -> None:
        async with ctx.transaction():
            inside.set()
            await released.wait()

    create = sampled()
    (task_id,) = await traced.offer("order", traceparent=create)
    async with traced.worker(heartbeat_seconds=60, lease_seconds=180):
        await inside.wait()
        traced.sql(
            "UPDATE tasks SET state = 'SCHEDULED', epoch = epoch + 1, worker_id = NULL, "
            "claim_token = NULL"
        )
        released.set()
        lost = {"queue": "default", "name": "order", "outcome": "lost"}
        await until(lambda: traced.count("holdfast_attempts_finished_total", **lost) == 1)
    assert collector.one("stale write refused", task_id).error
    assert collector.one("transaction").attributes["error.type"] == "TaskLost"
    assert collector.named("process default") == []


async def test_unsampled_tasks_create_no_spans(
    traced: Bench, collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even discarded ones, in the same batches as a sampled task."""
    made: list[str] = []

    def recording(tracing: Any, span: Any) -> None:
        made.append(str(span.attributes.get("holdfast.task.id", "batch")))

    contexts: list[str | None] = []

    @traced.registry.task("steps")
    async def steps(ctx: Context, payload: Payload) -> None:
        with ctx.span("step") as span:
            contexts.append(ctx.traceparent)
            assert not span.is_recording()
        async with ctx.transaction() as tx:
            await tx.execute(text("SELECT 1"))

    register_echo(traced)
    unsampled = traceparent.write(new_root(0.0))
    monkeypatch.setattr("holdfast.telemetry.tracing.Tracing.record", recording)
    (dull, bare) = await traced.submit("steps", "steps", traceparent=unsampled)
    (none,) = await traced.submit("steps")
    seen, _ = await submit(traced, "echo")
    async with traced.scheduler(), traced.worker():
        await traced.until_state([dull, bare, none, seen], State.SUCCEEDED)
    assert set(made) == {"batch", str(seen)}
    assert sorted(contexts, key=str) == [unsampled, unsampled, None]
    assert collector.spans == []


async def test_batch_without_a_sampled_task_has_no_span(traced: Bench, collector: Receiver) -> None:
    register_echo(traced)
    ids = await traced.submit("echo", "echo", traceparent=traceparent.write(new_root(0.0)))
    async with traced.scheduler(), traced.worker():
        await traced.until_state(ids, State.SUCCEEDED)
        hints = await traced.queue.read(ids[0], ["default"], 10, block_seconds=0.01)
    assert hints == []
    assert collector.posts == 0


@pytest.mark.parametrize("answer", ["paused", "500", "garbage"])
async def test_faulty_collector_neither_stops_nor_delays_tasks(
    traced: Bench, collector: Receiver, answer: str
) -> None:
    """Far more spans than the queue holds, while the collector accepts none."""
    collector.answer = answer
    register_echo(traced)
    ids = await traced.submit(*["echo"] * 600, traceparent=sampled())
    async with traced.scheduler(), traced.worker(worker_concurrency=50) as worker:
        await traced.until_state(ids[-1], State.SUCCEEDED, seconds=30)
        await until(lambda: traced.sql("SELECT count(*) FROM effects") == [(600,)], 30)
        assert worker.stalled() == {}
        assert collector.named("process default") == []
    assert traced.sql("SELECT max(attempt), count(*) FROM tasks") == [(1, 600)]
    assert traced.sql("SELECT count(*) FROM stale_writes") == [(0,)]
    assert traced.count("holdfast_loop_turns_total", loop="heartbeat", result="failed") == 0


async def test_attempt_of_a_thread_that_never_ends(
    traced: Bench, collector: Receiver, released: threading.Event
) -> None:
    """The attempt ends at its timeout; a step that ends later is still its child."""

    @traced.registry.task("uncooperative")
    def uncooperative(ctx: Context, payload: Payload) -> None:
        with ctx.span("late"):
            released.wait(30)

    create = sampled()
    (task_id,) = await traced.offer(
        "uncooperative", traceparent=create, timeout_seconds=0.2, max_attempts=1
    )
    async with traced.worker() as worker:
        await traced.until_state(task_id, State.FAILED)
        released.set()
        await until(lambda: worker.slots.idle)
    (process,) = await attempts(collector, traced, task_id)
    assert collector.one("late").parent_id == process.span_id
    assert process.end < time.time_ns()
