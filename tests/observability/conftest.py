"""One calm run and one that breaks everything, both watched by a real Prometheus: about 3 minutes.

Everything under this directory is marked ``observability``: it needs Prometheus and promtool.
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

# The tests of this folder that need Prometheus or Jaeger.
REAL_SERVERS = {"test_alerts.py", "test_dashboards.py", "test_jaeger.py", "test_rules.py"}
HERE = Path(__file__).parent
SEED = 6
TARGETS = 7  # one api, two schedulers, three workers, the harness; in both runs
# What fires between two runs, when nobody is there.
GONE = 'ALERTS{alertstate="firing", alertname="HoldfastRoleGone"}'


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in REAL_SERVERS:
            item.add_marker(pytest.mark.observability)
            item.add_marker(pytest.mark.timeout(600))  # the first one to ask waits for both runs


@dataclass(frozen=True)
class Window:
    """When a run could be scraped, Unix time, and how it was judged."""

    start: float
    end: float
    verdict: str


@dataclass(frozen=True)
class Story:
    """Prometheus, which still runs, and what it saw."""

    prometheus: Server
    calm: Window
    broken: Window


@pytest.fixture(scope="session")
def programs() -> Prometheus:
    """The real ones; fetched or built the first time."""
    return prometheus(cache_directory())


@pytest.fixture(scope="session")
def story(
    programs: Prometheus, tmp_path_factory: pytest.TempPathFactory, reaper: Reaper
) -> Iterator[Story]:
    directory = tmp_path_factory.mktemp("prometheus")
    with running(programs, directory, reaper) as server:
        calm, broken = asyncio.run(_watched(server, directory))
        yield Story(server, calm, broken)


async def _watched(server: Server, directory: Path) -> tuple[Window, Window]:
    async with ProcessStackFactory.open() as stacks:
        calm = await _window(find("calm"), server, directory, stacks)
        await _until_forgotten(server)
        broken = await _window(load(HERE / "everything.yaml"), server, directory, stacks)
    return calm, broken


async def _window(
    scenario: Scenario, server: Server, directory: Path, stacks: ProcessStackFactory
) -> Window:
    spec = RunSpec(ArenaName.LIVE, scenario, SEED, directory / "runs")
    arena = RealTimeArena(stacks, server.targets)
    running = asyncio.create_task(arena.run(spec))
    start = await _listed(server, running)
    while server.targets.exists() and not running.done():
        await asyncio.sleep(0.05)
    end = time.time()
    result = await running
    return Window(start, end, result.outcome.verdict)


async def _listed(server: Server, running: asyncio.Task[RunResult]) -> float:
    """When everybody was scraped, and what fired because nobody had been there was over."""
    while len(server.instant("up == 1")) < TARGETS or server.instant(GONE):
        if running.done():
            await running
            raise RuntimeError("the run was over before everybody was scraped at once")
        await asyncio.sleep(0.1)
    return time.time()


async def _until_forgotten(server: Server) -> None:
    """The second run is not to be taken for the first one."""
    while server.instant("up"):
        await asyncio.sleep(0.1)
