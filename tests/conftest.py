"""Real Postgres and real Valkey for the tests: one of each per worker process, clean for each test.

Each xdist worker has servers of its own; what is made only once (the initialised Postgres cluster)
lies in a directory that all workers of the session share, behind a file lock.
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

# How many examples a property is tested with: percent of the number it asks for (`examples`).
hypothesis_settings.register_profile("ci", max_examples=25, deadline=None)
hypothesis_settings.register_profile("nightly", max_examples=100, deadline=None)
hypothesis_settings.load_profile("ci")

TEMPLATE = "template"
STACK_SECONDS = 400  # a whole stack on a busy machine
XDIST_WORKER = "PYTEST_XDIST_WORKER" in os.environ

# From the longest tests to the shortest, which is the order in which workers take them.
TIERS = ("observability", "stack", "simulation", "server", "unit")
# The tier of a test follows from what it uses; a module that starts its stacks by other means
# carries the marker itself.
TIER_OF_FIXTURE = {
    "chaos": "stack",
    "stack": "stack",
    "temporary": "stack",
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


def tier_of(item: pytest.Item) -> str:
    """The tier that the test is marked with."""
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
    """Whether the test uses a fixture that its module sets up once."""
    if not isinstance(item, pytest.Function):
        return False
    definitions = item._fixtureinfo.name2fixturedefs.values()
    return any(fixture[-1].scope == "module" for fixture in definitions)


@pytest.fixture(scope="session", autouse=True)
def own_environment() -> Iterator[None]:
    """The developer's HOLDFAST_* variables must not change what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("HOLDFAST_") and name != "HOLDFAST_CACHE":
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def reaper() -> Iterator[Reaper]:
    """Ends the servers and removes their directories, even if pytest is killed."""
    with Reaper() as reaper:
        yield reaper


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, reaper: Reaper) -> Path:
    """A stopped Postgres's data, with the migrated database ``template``; one for all workers."""
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
    """A new directory that the servers' user can reach, removed when this process has ended."""
    directory = temporary_directory("holdfast-test-")
    reaper.own_directory(directory)
    return directory


def copy_cluster(source: Path, target: Path) -> None:
    """Copy a stopped Postgres's data with their owner, to which Postgres attaches importance."""
    target.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", f"{source}/.", f"{target}/"], check=True)


@pytest.fixture(scope="session")
def postgres(cluster: Path, reaper: Reaper) -> Iterator[EmbeddedPostgres]:
    """This worker's Postgres. Do not stop it: tests of crashes start their own."""
    directory = server_directory(reaper)
    copy_cluster(cluster, directory)
    with EmbeddedPostgres(directory, durable=False, reaper=reaper) as postgres:
        yield postgres


@pytest.fixture(scope="session")
def valkey(reaper: Reaper) -> Iterator[EmbeddedValkey]:
    """This worker's Valkey. Do not stop it: tests of crashes start their own."""
    with EmbeddedValkey(server_directory(reaper), reaper=reaper) as valkey:
        yield valkey


@pytest.fixture(scope="session")
def simulation_servers() -> Iterator[SharedServers]:
    """The simulation's Postgres and Valkey. A test that kills one leaves it to the next reset."""
    from chaos.simulation.environment.shared_servers import SharedServers

    with SharedServers.open() as servers:
        yield servers


@pytest.fixture(scope="session")
def administration(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """A connection of the superuser, in autocommit, to make and drop databases."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def migrated_template(postgres: EmbeddedPostgres) -> str:
    """The name of a database with the newest schema and no rows."""
    return TEMPLATE


@pytest.fixture(scope="session")
def database_names() -> Iterator[str]:
    """Names that no other test of this worker has."""
    return (f"test_{number}" for number in itertools.count(1))


@pytest.fixture
def empty_database_url(
    postgres: EmbeddedPostgres, administration: psycopg.Connection, database_names: Iterator[str]
) -> Iterator[str]:
    """A database of this test's own, without any schema."""
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
    """A database of this test's own, with the newest schema and no rows."""
    name = next(database_names)
    clone = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    administration.execute(clone.format(sql.Identifier(name), sql.Identifier(migrated_template)))
    yield postgres.url(name)
    administration.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    """This worker's Valkey, emptied for this test."""
    with redis.Redis.from_url(valkey.url()) as client:
        client.flushall()
    return valkey.url()


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    """Settings for this test's database and Redis; all else as by default."""
    return Settings(database_url=database_url, redis_url=redis_url)


@pytest.fixture
async def bench(settings: Settings) -> AsyncIterator[Bench]:
    """Real roles in the test's own loop, with short times."""
    async with bench_for(settings) as bench:
        yield bench


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """Set at the latest when the test ends: no thread outlives it."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where a run puts its temporary files, within reach of the servers' user; empty after it."""
    place = temporary_directory("holdfast-test-")
    try:
        yield place
        assert list(place.iterdir()) == []
    finally:
        shutil.rmtree(place)


@pytest.fixture
async def collector() -> AsyncIterator[Receiver]:
    """A collector of traces."""
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
def traced(bench: Bench, collector: Receiver) -> Bench:
    """A bench whose roles send their spans to the collector."""
    bench.settings = bench.quick(otlp_endpoint=collector.url, trace_export_seconds=0.05)
    return bench
