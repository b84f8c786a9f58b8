"""The memory of a fresh worker process while it claims large payloads."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bench import Bench
from measured_api import ROOT
from waiting import until

from chaos.mutants import import_path
from holdfast.handlers import Context
from holdfast.model.lifecycle import State
from holdfast.store.transitions import CLAIM_BYTES_MAX
from holdfast.telemetry.event_names import EventName

pytestmark = pytest.mark.stack

_TASKS = 100
_HANDLER = """
from holdfast import task

@task("large")
async def large(ctx, payload):
    return payload if isinstance(payload["x"], list) else len(payload["x"])
"""
_PAYLOAD = {"x": "x" * 1_000_000}
_STRINGS = {"x": ["abc"] * 120_000}  # seven times as large in memory as its text


@contextmanager
def worker_process(bench: Bench, directory: Path) -> Iterator[int]:
    """Run a worker with the handler ``large`` until the block ends; yield its pid."""
    (directory / "handlers_of_the_test.py").write_text(_HANDLER)
    shared = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
    environment = shared | {
        "PYTHONPATH": f"{import_path(ROOT)}:{directory}",
        "HOLDFAST_DATABASE_URL": bench.settings.database_url,
        "HOLDFAST_REDIS_URL": bench.settings.redis_url,
        "HOLDFAST_REDIS_PREFIX": bench.settings.redis_prefix,
        "HOLDFAST_HEALTH_PORT": "0",
        "HOLDFAST_WORKER_CONCURRENCY": str(_TASKS),
    }
    argv = [sys.executable, "-m", "holdfast", "worker", "--app", "handlers_of_the_test"]
    with subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.parametrize(
    ("payload", "bytes_max"),
    [
        pytest.param(_PAYLOAD, 6 * CLAIM_BYTES_MAX, id="text"),
        pytest.param(_STRINGS, 20 * CLAIM_BYTES_MAX, id="strings"),
    ],
)
async def test_a_part_of_the_payloads_is_held_at_a_time(
    bench: Bench, tmp_path: Path, payload: dict[str, Any], bytes_max: int
) -> None:
    """Regression: 100 tasks of 1 MB took 200 MB more than the worker at rest.

    With many values in each they took 500 MB: all payloads were decoded before one was encoded.
    """

    def succeeded() -> int:
        return int(bench.sql("SELECT count(*) FROM tasks WHERE state = 'SUCCEEDED'")[0][0])

    with worker_process(bench, tmp_path) as pid:
        await bench.offer("large", payload={"x": "x"})
        await until(lambda: succeeded() == 1, 30)
        before = peak_bytes(pid)
        for _ in range(_TASKS):
            await bench.submit("large", payload=payload)
        await bench.hint()
        await until(lambda: succeeded() == 1 + _TASKS, 60)
        grown = peak_bytes(pid) - before
    assert grown < bytes_max, grown


async def test_what_remains_of_a_claim_starts_while_the_first_part_runs(bench: Bench) -> None:
    started, together = 0, asyncio.Event()

    @bench.registry.task("large")
    async def large(ctx: Context, payload: dict[str, Any]) -> None:
        nonlocal started
        started += 1
        if started == 20:
            together.set()
        await together.wait()

    tasks = [(await bench.submit("large", payload=_PAYLOAD))[0] for _ in range(20)]
    await bench.hint()
    slow = {"lease_seconds": 10.0, "statement_timeout_seconds": 30.0}
    async with bench.worker(**slow, worker_concurrency=32):
        await bench.until_state(tasks, State.SUCCEEDED, seconds=30)
    assert started == 20
    assert EventName.QUARANTINED_TASK_WAITING not in bench.logged()
    assert bench.count("holdfast_claims_refused_total") == 0
