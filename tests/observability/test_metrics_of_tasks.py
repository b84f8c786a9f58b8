"""Metrics of tasks: each transition is counted once, by the process that committed it."""

from __future__ import annotations

import asyncio
from typing import Any

from bench import Bench
from waiting import until

from holdfast.handlers import Context, Discard
from holdfast.model.lifecycle import Backoff, State

TASKS = "holdfast_tasks_finished_total"
ATTEMPTS = "holdfast_attempts_finished_total"


def finished(bench: Bench) -> dict[str, float]:
    outcomes = ("succeeded", "failed", "cancelled")
    return {each: bench.count(TASKS, queue="default", outcome=each) for each in outcomes}


async def test_worker_counts_the_ends_of_its_tasks(bench: Bench) -> None:
    @bench.registry.task("work", backoff=Backoff(base_seconds=0.05, max_seconds=0.1))
    async def work(ctx: Context, payload: dict[str, Any]) -> None:
        if payload.get("discard"):
            raise Discard("no")
        if ctx.attempt < payload.get("attempts", 1):
            raise ValueError("again")

    async with bench.worker(), bench.scheduler():
        ids = await bench.submit("work", "work")
        ids += await bench.submit("work", payload={"discard": True})
        ids += await bench.submit("work", payload={"attempts": 2})
        await bench.until_state(ids, State.SUCCEEDED, State.FAILED)
        await until(lambda: sum(finished(bench).values()) == 4)
    assert finished(bench) == {"succeeded": 3, "failed": 1, "cancelled": 0}
    assert bench.count(ATTEMPTS, queue="default", name="work", outcome="succeeded") == 3
    assert bench.count(ATTEMPTS, queue="default", name="work", outcome="failed") == 1
    assert bench.count(ATTEMPTS, queue="default", name="work", outcome="discarded") == 1
    for name in ("task_start_delay", "task_queue_wait"):
        assert bench.count(f"holdfast_{name}_seconds_count", queue="default") == 5
    assert bench.count("holdfast_attempt_run_seconds_count", queue="default", name="work") == 5
    assert bench.count("holdfast_task_duration_seconds_count", queue="default") == 3


async def test_task_duration_includes_retries_but_not_the_scheduled_delay(bench: Bench) -> None:
    @bench.registry.task("slow")
    async def slow(ctx: Context, payload: dict[str, Any]) -> None:
        await asyncio.sleep(0.3)

    await bench.submit("slow")
    bench.sql(
        "UPDATE requests SET created_at = created_at - interval '1 h', "
        "run_at = run_at - interval '100 s'"
    )
    bench.sql("UPDATE tasks SET due_at = due_at - interval '2 s'")
    async with bench.worker(), bench.scheduler():
        await until(lambda: finished(bench)["succeeded"] == 1)
    whole = bench.count("holdfast_task_duration_seconds_sum", queue="default")
    assert 100.3 <= whole < 110
    assert 2 <= bench.count("holdfast_task_start_delay_seconds_sum", queue="default") < 10
    assert bench.count("holdfast_task_queue_wait_seconds_sum", queue="default") < 2


async def test_scheduler_counts_the_tasks_it_ends(bench: Bench) -> None:
    worker = await bench.registered()
    await bench.claimed("a", "b", "c", worker=worker, max_losses=1)
    bench.sql("UPDATE tasks SET cancel_requested = true WHERE name = 'c'")
    bench.sql("UPDATE workers SET dead_at = clock_timestamp(), dead_reason = 'test'")
    async with bench.scheduler():
        await until(lambda: sum(finished(bench).values()) == 3)
    assert finished(bench) == {"succeeded": 0, "failed": 2, "cancelled": 1}
    assert bench.count("holdfast_attempts_taken_back_total", reason="lease lost") == 3


async def test_exemplars_refer_to_recorded_traces(bench: Bench) -> None:
    @bench.registry.task("work")
    async def work(ctx: Context, payload: dict[str, Any]) -> None: ...

    kept, other = "0af7651916cd43dd8448eb211c80319c", "1af7651916cd43dd8448eb211c80319c"
    await bench.submit("work", traceparent=f"00-{kept}-b7ad6b7169203331-01")
    await bench.submit("work", traceparent=f"00-{other}-b7ad6b7169203331-00")
    nowhere = {"otlp_endpoint": "http://127.0.0.1:9"}
    async with bench.worker(**nowhere), bench.scheduler():
        await until(lambda: finished(bench)["succeeded"] == 2)
    text = bench.metrics.render("application/openmetrics-text")[0].decode()
    for name in ("task_start_delay", "task_queue_wait", "attempt_run", "task_duration"):
        lines = [
            line for line in text.splitlines() if line.startswith(f"holdfast_{name}_seconds_b")
        ]
        assert [line for line in lines if f'# {{trace_id="{kept}"}}' in line], name
    assert other not in text
