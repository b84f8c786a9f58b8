"""A calm run and a run with all faults, both scraped by a real Prometheus: about 3 minutes.

Tests that need Prometheus, promtool or Jaeger are marked ``observability``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_server import Server, running

from chaos.history.records import ArenaName
from chaos.live.run import RealTimeArena
from chaos.live.topology import ProcessStackFactory
from chaos.run.spec import RunResult, RunSpec
from chaos.scenario.scenario import Scenario, find, load
from holdfast.devstack.host import cache_directory
from holdfast.devstack.reaper import Reaper
from observability.binaries import Prometheus, prometheus

REAL_SERVERS = {"test_alerts.py", "test_dashboards.py", "test_jaeger.py", "test_rules.py"}
HERE = Path(__file__).parent
SEED = 6
TARGETS = 7  # 1 api, 2 schedulers, 3 workers and the harness, in both runs
# Fires between two runs, when no target is up.
GONE = 'ALERTS{alertstate="firing", alertname="HoldfastRoleGone"}'


@pytest.hookimpl(tryfirst=True)  # before -m deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in REAL_SERVERS:
            item.add_marker(pytest.mark.observability)
            item.add_marker(pytest.mark.timeout(600))  # the first test waits for both runs


@dataclass(frozen=True)
class Window:
    """When a run could be scraped (Unix time), and its verdict."""

    start: float
    end: float
    verdict: str


@dataclass(frozen=True)
class Story:
    """A running Prometheus and the windows of both runs in it."""

    prometheus: Server
    calm: Window
    broken: Window


@pytest.fixture(scope="session")
def programs() -> Prometheus:
    """Return the Prometheus binaries; downloaded or built on first use."""
    return prometheus(cache_directory())


@pytest.fixture(scope="session")
def story(
    programs: Prometheus, tmp_path_factory: pytest.TempPathFactory, reaper: Reaper
) -> Iterator[Story]:
    directory = tmp_path_factory.mktemp("prometheus")
    with running(programs, directory, reaper) as server:
        calm, broken = asyncio.run(_both_runs(server, directory))
        yield Story(server, calm, broken)


async def _both_runs(server: Server, directory: Path) -> tuple[Window, Window]:
    async with ProcessStackFactory.open() as stacks:
        calm = await _window(find("calm"), server, directory, stacks)
        await _until_stale(server)
        broken = await _window(load(HERE / "everything.yaml"), server, directory, stacks)
    return calm, broken


async def _window(
    scenario: Scenario, server: Server, directory: Path, stacks: ProcessStackFactory
) -> Window:
    spec = RunSpec(ArenaName.LIVE, scenario, SEED, directory / "runs")
    arena = RealTimeArena(stacks, server.targets)
    running = asyncio.create_task(arena.run(spec))
    start = await _until_scraped(server, running)
    while server.targets.exists() and not running.done():
        await asyncio.sleep(0.05)
    end = time.time()
    result = await running
    return Window(start, end, result.outcome.verdict)


async def _until_scraped(server: Server, running: asyncio.Task[RunResult]) -> float:
    """Wait until all targets are up and the alert about their absence has resolved."""
    while len(server.instant("up == 1")) < TARGETS or server.instant(GONE):
        if running.done():
            await running
            raise RuntimeError("the run ended before all targets were up together")
        await asyncio.sleep(0.1)
    return time.time()


async def _until_stale(server: Server) -> None:
    """Wait until the targets of the first run are stale, so that the runs do not mix."""
    while server.instant("up"):
        await asyncio.sleep(0.1)
