"""Postgres and Valkey for the tests: one of each per worker process, clean for each test.

Each xdist worker has its own servers. The initialised Postgres cluster is created once, under a
file lock, in a directory shared by all workers of the session.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import subprocess
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from bench import Bench, bench_for
from hypothesis import settings as hypothesis_settings
from otlp_receiver import Receiver, receiving
from psycopg import sql

from holdfast.devstack.host import temporary_directory
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.servers import EmbeddedPostgres, EmbeddedValkey
from holdfast.settings import Settings
from holdfast.store.migrate import upgrade

if TYPE_CHECKING:
    from chaos.simulation.environment.shared_servers import SharedServers

# Percentage of the examples that a property asks for (see `examples`).
hypothesis_settings.register_profile("ci", max_examples=25, deadline=None)
hypothesis_settings.register_profile("nightly", max_examples=100, deadline=None)
hypothesis_settings.load_profile("ci")

TEMPLATE = "template"
STACK_SECONDS = 400  # a whole stack on a busy machine
XDIST_WORKER = "PYTEST_XDIST_WORKER" in os.environ

# Longest tests first: the order in which workers take them.
TIERS = ("observability", "stack", "simulation", "server", "unit")
# The tier of a test follows from its fixtures; a module that starts stacks otherwise carries the
# marker itself.
TIER_OF_FIXTURE = {
    "chaos": "stack",
    "command": "stack",
    "stack": "stack",
    "temporary": "stack",
    "wheel": "stack",
    "simulation_servers": "simulation",
    "reaper": "server",
}


@pytest.hookimpl(tryfirst=True)  # before -m selects and xdist groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier; keep tests that share a module's fixture on one worker."""
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            used = [tier for name, tier in TIER_OF_FIXTURE.items() if name in _fixtures(item)]
            item.add_marker(min([*used, "unit"], key=TIERS.index))
        item.user_properties.append(("tier", tier_of(item)))
        if tier_of(item) == "stack" and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(STACK_SECONDS))
        if not item.get_closest_marker("xdist_group") and _shares_fixtures(item):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    if XDIST_WORKER:
        items.sort(key=lambda item: TIERS.index(tier_of(item)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse an xdist that ignores groups: each worker would make the fixtures of a module anew."""
    if XDIST_WORKER:
        grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
        ignored = [item.nodeid for item in grouped if "@" not in item.nodeid]
        assert not ignored, f"xdist ignores the groups of {len(ignored)} tests"


def tier_of(item: pytest.Item) -> str:
    """Return the tier that the test is marked with."""
    return next(tier for tier in TIERS if item.get_closest_marker(tier))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests each tier has and how long they took, summed over all workers."""
    counts: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            tier = str(dict(report.user_properties)["tier"])
            counts[tier] += report.when == "call"
            seconds[tier] += report.duration
    terminalreporter.section("tiers")
    for tier in reversed(TIERS):
        if counts[tier]:
            terminalreporter.line(f"{tier:<14}{counts[tier]:>5} tests {seconds[tier]:>7.1f} s")


def _fixtures(item: pytest.Item) -> list[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else []


def _shares_fixtures(item: pytest.Item) -> bool:
    """Return whether the test uses a module-scoped fixture."""
    if not isinstance(item, pytest.Function):
        return False
    definitions = item._fixtureinfo.name2fixturedefs.values()
    return any(fixture[-1].scope == "module" for fixture in definitions)


@pytest.fixture(scope="session", autouse=True)
def own_environment() -> Iterator[None]:
    """Remove the developer's variables HOLDFAST_* and OTEL_*, which would change what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("HOLDFAST_", "OTEL_")) and name != "HOLDFAST_CACHE":
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def reaper() -> Iterator[Reaper]:
    """Yield a reaper that ends servers and removes directories even if pytest is killed."""
    with Reaper() as reaper:
        yield reaper


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, reaper: Reaper) -> Path:
    """Return a stopped Postgres's data with the migrated database ``template``, made once."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if XDIST_WORKER else own
    made = shared / "cluster"
    with (shared / "cluster.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            directory = server_directory(reaper)
            with EmbeddedPostgres(directory, durable=False, reaper=reaper) as postgres:
                postgres.create_database(TEMPLATE)
                upgrade(postgres.url(TEMPLATE))
            scratch = shared / "cluster.new"
            copy_cluster(directory, scratch)
            scratch.rename(made)
    return made


def server_directory(reaper: Reaper) -> Path:
    """Create a directory readable by the servers' user, removed when this process ends."""
    directory = temporary_directory("holdfast-test-")
    reaper.own_directory(directory)
    return directory


def copy_cluster(source: Path, target: Path) -> None:
    """Copy a stopped Postgres's data and keep the owner, which Postgres checks."""
    target.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", f"{source}/.", f"{target}/"], check=True)


@pytest.fixture(scope="session")
def postgres(cluster: Path, reaper: Reaper) -> Iterator[EmbeddedPostgres]:
    """Yield this worker's Postgres. Do not stop it: crash tests start their own."""
    directory = server_directory(reaper)
    copy_cluster(cluster, directory)
    with EmbeddedPostgres(directory, durable=False, reaper=reaper) as postgres:
        yield postgres


@pytest.fixture(scope="session")
def valkey(reaper: Reaper) -> Iterator[EmbeddedValkey]:
    """Yield this worker's Valkey. Do not stop it: crash tests start their own."""
    with EmbeddedValkey(server_directory(reaper), reaper=reaper) as valkey:
        yield valkey


@pytest.fixture(scope="session")
def simulation_servers() -> Iterator[SharedServers]:
    """Yield the simulation's Postgres and Valkey; the next reset restarts a killed one."""
    from chaos.simulation.environment.shared_servers import SharedServers

    with SharedServers.open() as servers:
        yield servers


@pytest.fixture(scope="session")
def administration(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """Yield an autocommit connection of the superuser, to create and drop databases."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def migrated_template(postgres: EmbeddedPostgres) -> str:
    """Return the name of a database with the newest schema and no rows."""
    return TEMPLATE


@pytest.fixture(scope="session")
def database_names() -> Iterator[str]:
    """Return a source of database names that are unique in this worker."""
    return (f"test_{number}" for number in itertools.count(1))


@pytest.fixture
def empty_database_url(
    postgres: EmbeddedPostgres, administration: psycopg.Connection, database_names: Iterator[str]
) -> Iterator[str]:
    """Yield the URL of an empty database for this test."""
    name = next(database_names)
    administration.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield postgres.url(name)
    administration.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database_url(
    postgres: EmbeddedPostgres,
    administration: psycopg.Connection,
    migrated_template: str,
    database_names: Iterator[str],
) -> Iterator[str]:
    """Yield the URL of a database for this test, with the newest schema and no rows."""
    name = next(database_names)
    clone = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    administration.execute(clone.format(sql.Identifier(name), sql.Identifier(migrated_template)))
    # For the statements of tests; the product's are qualified (test_shared_database.py).
    path = sql.SQL("ALTER DATABASE {} SET search_path TO public, holdfast")
    administration.execute(path.format(sql.Identifier(name)))
    yield postgres.url(name)
    administration.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    """Return the URL of this worker's Valkey, flushed for this test."""
    with redis.Redis.from_url(valkey.url()) as client:
        client.flushall()
    return valkey.url()


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    """Return default settings with this test's database and Redis."""
    return Settings(database_url=database_url, redis_url=redis_url)


@pytest.fixture
async def bench(settings: Settings) -> AsyncIterator[Bench]:
    """Yield a bench that runs real roles in the test's event loop, with short times."""
    async with bench_for(settings) as bench:
        yield bench


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """An event set at the end of the test at the latest, so that no thread outlives it."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Yield a directory for a run's temporary files, and assert that it is empty afterwards."""
    place = temporary_directory("holdfast-test-")
    try:
        yield place
        assert list(place.iterdir()) == []
    finally:
        shutil.rmtree(place)


@pytest.fixture
async def collector() -> AsyncIterator[Receiver]:
    """Yield a trace collector."""
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
def traced(bench: Bench, collector: Receiver) -> Bench:
    """Yield a bench whose roles export their spans to the collector."""
    bench.settings = bench.quick(otlp_endpoint=collector.url, trace_export_seconds=0.05)
    return bench
