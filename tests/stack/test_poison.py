"""Handlers that kill their process, on real processes: only their tasks are dead-lettered."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from bench import Bench

from chaos.checker.bounds import compute
from chaos.mutants import import_path
from chaos.scenario.scenario import Scenario
from holdfast.model.lifecycle import State

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.stack

HANDLERS = """
import asyncio, os, signal
from holdfast import task

@task("poison")
async def poison(ctx, payload):
    await asyncio.sleep(0.1)  # by now its whole batch is running
    os.kill(os.getpid(), signal.SIGKILL)

@task("neighbour")
async def neighbour(ctx, payload):
    await asyncio.sleep(0.3)
    return ctx.attempt
"""
SHORT = {"lease_seconds": 0.9, "heartbeat_seconds": 0.3, "hint_deadline_seconds": 2.0}
POISON, NEIGHBOURS, WORKERS, SLOTS = 2, 30, 2, 16
TIMEOUT_SECONDS = 5.0
SCENARIO = Scenario.model_validate(
    {
        "id": "poison",
        "hypothesis": "A task that kills its process fails without its neighbours.",
        "topology": {
            "schedulers": 1,
            "workers": WORKERS,
            "settings": SHORT | {"worker_concurrency": SLOTS},
        },
        "workload": {
            "tasks": POISON + NEIGHBOURS,
            "seconds": 1,
            "poison": POISON,
            "handler_seconds": [0.1, 0.3],
            "timeout_seconds": TIMEOUT_SECONDS,
            "differences": {"queues": ["default"], "ends": 0, "hangs": 0, "requests": False},
        },
    }
)


@dataclass
class Workers:
    """Worker processes, each restarted when it dies."""

    directory: Path
    environment: dict[str, str]
    codes: list[int] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @asynccontextmanager
    async def running(self, many: int) -> AsyncIterator[None]:
        keepers = [asyncio.create_task(self._keep()) for _ in range(many)]
        try:
            yield
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            for process in self.processes:
                process.kill()
                process.wait()

    async def _keep(self) -> None:
        while True:
            process = self._start()
            while (code := process.poll()) is None:
                await asyncio.sleep(0.02)
            self.codes.append(code)

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.directory / "workers.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "holdfast", "worker", "--app", "poison_handlers"],
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process


def workers(bench: Bench, directory: Path) -> Workers:
    (directory / "poison_handlers.py").write_text(HANDLERS)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
    own = {
        "PYTHONPATH": import_path(ROOT),
        "HOLDFAST_DATABASE_URL": bench.settings.database_url,
        "HOLDFAST_REDIS_URL": bench.settings.redis_url,
        "HOLDFAST_WORKER_CONCURRENCY": str(SLOTS),
        "HOLDFAST_LEASE_SECONDS": str(SHORT["lease_seconds"]),
        "HOLDFAST_HEARTBEAT_SECONDS": str(SHORT["heartbeat_seconds"]),
    }
    return Workers(directory, {**clean, **own})


async def test_poison_fails_without_other_tasks(bench: Bench, tmp_path: Path) -> None:
    limit = TIMEOUT_SECONDS
    poison = await bench.submit(*["poison"] * POISON, timeout_seconds=limit)
    neighbours = await bench.submit(*["neighbour"] * NEIGHBOURS, timeout_seconds=limit)
    started = workers(bench, tmp_path)
    async with bench.scheduler(**SHORT), started.running(WORKERS):
        await bench.until_state(
            [*poison, *neighbours], State.SUCCEEDED, State.FAILED, seconds=compute(SCENARIO).seconds
        )
    stories = {task: await bench.story(task) for task in [*poison, *neighbours]}
    dead_letter = {task for task, story in stories.items() if story.task.state is State.FAILED}
    assert dead_letter == set(poison)
    assert all(stories[task].task.losses == 3 for task in poison)
    assert all(stories[task].task.state is State.SUCCEEDED for task in neighbours)
    losses = [stories[task].task.losses for task in neighbours]
    assert max(losses) == 2, "otherwise no neighbour was ever at risk"
    assert set(started.codes) == {-signal.SIGKILL}
    assert 4 <= len(started.codes) <= 6, "together until quarantined, then one by one"
