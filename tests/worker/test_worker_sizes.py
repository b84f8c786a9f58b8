"""Large payloads and results occupy the worker's event loop one at a time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from bench import Bench
from waiting import until

from holdfast.handlers import Context
from holdfast.model.payload import CONTAINERS_MAX

Payload = dict[str, Any]


async def test_results_that_are_slow_to_encode_do_not_cost_the_lease(bench: Bench) -> None:
    """Regression: ten such results, encoded in a row, took longer than the lease."""
    ended = asyncio.Event()

    @bench.registry.task("bystander")
    async def bystander(ctx: Context, payload: Payload) -> str:
        await ended.wait()
        return "not run again"

    @bench.registry.task("large")
    async def large(ctx: Context, payload: Payload) -> Any:
        return {"a": [{"": 0.5}] * (CONTAINERS_MAX - 10), "b": len(payload["a"])}

    @bench.registry.task("too_large")
    async def too_large(ctx: Context, payload: Payload) -> Any:
        return {"a": [[]] * 345_000}

    def states(name: str) -> list[tuple[str, int, int]]:
        return bench.sql(f"SELECT state, attempt, losses FROM tasks WHERE name = '{name}'")

    await bench.offer("bystander")
    for _ in range(10):
        await bench.submit("large", payload={"a": [[]] * (CONTAINERS_MAX - 10)})
        await bench.submit("too_large", max_attempts=1)
    slow = {"lease_seconds": 3.0, "statement_timeout_seconds": 30.0}
    async with bench.scheduler(**slow), bench.worker(**slow, worker_concurrency=32):
        await until(lambda: states("large") == [("SUCCEEDED", 1, 0)] * 10, 60)
        await until(lambda: states("too_large") == [("FAILED", 1, 0)] * 10, 60)
        ended.set()
        await until(lambda: states("bystander") == [("SUCCEEDED", 1, 0)])
    results = bench.sql("SELECT result->'b' FROM effects WHERE jsonb_typeof(result) = 'object'")
    assert results == [(CONTAINERS_MAX - 10,)] * 10
    details = bench.sql("SELECT detail FROM task_events WHERE to_state = 'FAILED'")
    assert len(details) == 10
    assert all("more than 150000 values" in json.dumps(detail) for detail in details)
