"""Clock skew of a real process: only its wall clocks move, and they move back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from waiting import until

from chaos.live.actors import Command, SupervisedProcess
from chaos.mutants import import_path
from chaos.nemesis.process_faults import ProcessEnd, ProcessFault
from chaos.observers.database import DatabaseObserver
from chaos.scenario.faults import FaultSpec
from holdfast.devstack.host import free_port
from holdfast.devstack.reaper import Reaper
from holdfast.settings import Settings
from holdfast.telemetry.event_names import EventName

ROOT = Path(__file__).parents[2]
HOUR = 3600
# Prints all of its clocks, and stops gracefully on SIGTERM.
CLOCKS = """
import datetime as dt, json, signal, sys, time
from datetime import datetime
from time import time as imported_before
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
while not stop:
    row = {
        "time": time.time(), "imported": imported_before(), "nanoseconds": time.time_ns() / 1e9,
        "now": datetime.now(dt.timezone.utc).timestamp(), "utcnow": datetime.utcnow().timestamp(),
        "monotonic": time.monotonic(), "counter": time.perf_counter(),
    }
    print(json.dumps(row), flush=True)
    time.sleep(0.01)
print("stopped in order", flush=True)
"""
WALL = ("time", "imported", "nanoseconds", "now", "utcnow")


class Skewed:
    """One process under ``chaos.live.clock_skew_role``, and faults of its clock."""

    def __init__(self, directory: Path, reaper: Reaper) -> None:
        self.directory = directory
        self.reaper = reaper
        self.clock_file = directory / "actor.clock"
        self.log = directory / "actor.log"
        self.exits: list[ProcessEnd] = []
        self.actor: SupervisedProcess | None = None

    def start(
        self, *module: str, ready_url: str | None = None, **variables: str
    ) -> SupervisedProcess:
        argv = [sys.executable, "-m", "chaos.live.clock_skew_role", str(self.clock_file), *module]
        path = f"{import_path(ROOT)}{os.pathsep}{self.directory}"
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "TZ": "UTC"} | variables
        command = Command(argv, environment, self.directory, self.log, ready_url, self.clock_file)
        self.actor = SupervisedProcess("scheduler-1", command, self.reaper, self.exits.append)
        self.actor.start()
        return self.actor

    async def skew(self, seconds: int, hold: Callable[[], Any]) -> tuple[bool, dict[str, Any]]:
        assert self.actor is not None
        plan = {"fault": "skew", "target": "scheduler-1", "at": 0}
        fault = FaultSpec.model_validate(plan | {"attributes": {"seconds": seconds}})
        no_observer = cast("DatabaseObserver", None)  # a scheduler has no incarnations
        return await ProcessFault(fault, self.actor, no_observer).run(hold)

    def rows(self) -> list[dict[str, Any]]:
        """Return the complete JSON lines of its log."""
        lines = self.log.read_text().splitlines(keepends=True) if self.log.exists() else []
        return [json.loads(row) for row in lines if row.startswith("{") and row.endswith("}\n")]

    async def next_row(self, matches: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for the next new line that matches; return it."""
        known = len(self.rows())

        def new() -> list[dict[str, Any]]:
            return [row for row in self.rows()[known:] if matches(row)]

        await until(lambda: bool(new()), describe=lambda: self.rows()[known:])
        return new()[0]


@pytest.fixture
async def skewed(tmp_path: Path, reaper: Reaper) -> AsyncIterator[Skewed]:
    skewed = Skewed(tmp_path, reaper)
    yield skewed
    if skewed.actor is not None:
        await skewed.actor.stop(2)


def ahead(row: dict[str, Any], clock: str) -> float:
    """Return how far that clock of the process is ahead of ours."""
    return float(row[clock]) - time.time()


async def test_skew_moves_only_wall_clocks_and_moves_them_back(skewed: Skewed) -> None:
    (skewed.directory / "clocks.py").write_text(CLOCKS)
    actor = skewed.start("clocks")
    row = await skewed.next_row(lambda _: True)
    assert all(abs(ahead(row, clock)) < 0.5 for clock in WALL)
    for seconds in (HOUR, -HOUR):
        before = await skewed.next_row(lambda _: True)
        during: list[dict[str, Any]] = []

        async def hold(during: list[dict[str, Any]] = during) -> None:
            during.extend([await skewed.next_row(lambda _: True) for _ in range(2)])

        observed, evidence = await skewed.skew(seconds, hold)
        assert observed
        assert evidence["ahead"] == pytest.approx(seconds, abs=0.5)
        assert evidence["ahead_after"] == pytest.approx(0, abs=0.5)
        assert evidence["pid"] == actor.pid
        for clock in WALL:
            assert ahead(during[1], clock) == pytest.approx(seconds, abs=2), clock
        after = await skewed.next_row(lambda _: True)
        assert all(abs(ahead(after, clock)) < 0.5 for clock in WALL)
        for clock in ("monotonic", "counter"):
            passed = [row[clock] for row in (before, *during, after)]
            assert passed == sorted(passed)
            assert passed[-1] - passed[0] < 30
        # The skewed clock keeps running.
        assert during[1]["time"] > during[0]["time"]
    actor.terminate()
    assert await actor.gone() == 0
    assert skewed.log.read_text().endswith("stopped in order\n")


@pytest.fixture
async def scheduler(skewed: Skewed, settings: Settings, redis_url: str) -> Skewed:
    """Start a real scheduler as the arena does."""
    port = free_port()
    actor = skewed.start(
        "holdfast",
        "scheduler",
        ready_url=f"http://127.0.0.1:{port}/readyz",
        HOLDFAST_DATABASE_URL=settings.database_url,
        HOLDFAST_REDIS_URL=redis_url,
        HOLDFAST_HEALTH_PORT=str(port),
        HOLDFAST_LOG_FORMAT="json",
        HOLDFAST_POLL_SECONDS="0.1",
        HOLDFAST_LABEL="scheduler-1",
    )
    await actor.ready()
    return skewed


async def test_role_keeps_working_with_a_skewed_clock(scheduler: Skewed, redis_url: str) -> None:
    assert scheduler.actor is not None
    ahead_by: list[float] = []

    async def hold() -> None:
        ahead_by.append(await hint_loss_logged_ahead(scheduler, redis_url))

    observed, _ = await scheduler.skew(HOUR, hold)
    assert observed
    ahead_by.append(await hint_loss_logged_ahead(scheduler, redis_url))
    observed, _ = await scheduler.skew(-HOUR, hold)
    assert observed
    # Its log lines are an hour ahead, correct again, and an hour behind.
    assert ahead_by == pytest.approx([HOUR, 0, -HOUR], abs=5)
    pid = scheduler.actor.terminate()
    assert await scheduler.actor.gone() == 0
    assert scheduler.rows()[-1]["event_name"] == EventName.SCHEDULER_STOPPED
    await until(lambda: bool(scheduler.exits))
    assert [(end.pid, end.code, end.planned) for end in scheduler.exits] == [(pid, 0, True)]


async def hint_loss_logged_ahead(scheduler: Skewed, redis_url: str) -> float:
    """Cause a log line; return how many seconds its timestamp is ahead."""
    noticed = asyncio.create_task(
        scheduler.next_row(lambda row: row["event_name"] == EventName.HINT_LOSS_DETECTED)
    )
    await asyncio.sleep(0)
    async with Redis.from_url(redis_url) as redis:
        await redis.flushall()
    row = await noticed
    return datetime.fromisoformat(row["timestamp"]).timestamp() - time.time()


async def test_role_with_a_skewed_clock_stops_gracefully(
    scheduler: Skewed,
) -> None:
    actor = scheduler.actor
    assert actor is not None

    async def hold() -> None:
        actor.terminate()
        assert await actor.gone() == 0

    observed, evidence = await scheduler.skew(HOUR, hold)
    # It did not live to have its clock put right: that is not what was planned.
    assert not observed
    assert evidence["ahead"] == pytest.approx(HOUR, abs=1)
    assert evidence["ahead_after"] is None
    assert scheduler.rows()[-1]["event_name"] == EventName.SCHEDULER_STOPPED
    assert signal.SIGKILL not in {-end.code for end in scheduler.exits}
