"""Real Postgres and real Valkey for the tests: one of each per session, clean for each test."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from bench import Bench, bench_for
from otlp_receiver import Receiver, receiving
from psycopg import sql

from system.embedded import EmbeddedPostgres, EmbeddedValkey
from system.guardian import Reaper
from system.machine import temporary_directory
from system.migrate import upgrade
from system.settings import Settings


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
def postgres(reaper: Reaper) -> Iterator[EmbeddedPostgres]:
    """The session's Postgres. Do not stop it: tests of crashes start their own."""
    directory = temporary_directory("holdfast-test-")
    reaper.own_directory(directory)
    with EmbeddedPostgres(directory, durable=False, reaper=reaper) as postgres:
        yield postgres


@pytest.fixture(scope="session")
def valkey(reaper: Reaper) -> Iterator[EmbeddedValkey]:
    """The session's Valkey. Do not stop it: tests of crashes start their own."""
    directory = temporary_directory("holdfast-test-")
    reaper.own_directory(directory)
    with EmbeddedValkey(directory, reaper=reaper) as valkey:
        yield valkey


@pytest.fixture(scope="session")
def administration(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """A connection of the superuser, in autocommit, to make and drop databases."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def migrated_template(postgres: EmbeddedPostgres) -> str:
    """The name of a database with the newest schema and no rows."""
    postgres.create_database("template")
    upgrade(postgres.url("template"))
    return "template"


@pytest.fixture(scope="session")
def database_names() -> Iterator[str]:
    """Names that no other test of this session has."""
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
    """The session's Valkey, emptied for this test."""
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
