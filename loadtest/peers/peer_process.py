"""Measure one peer: run its steps as processes of its environment on the given servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import orjson
import redis.asyncio as redis

from loadtest.database_probe import SETTLE
from loadtest.drain_results import Round
from loadtest.peers.environments import environment_of
from loadtest.peers.peer_api import PeerConfig
from loadtest.processes import LoadtestError, end, spawn
from loadtest.stopwatch import Stopwatch

NAMES = ("celery", "rq", "dramatiq", "arq", "taskiq", "procrastinate", "pgqueuer", "dbos")
DATABASE = "holdfast_peer"
REDIS_DATABASE = 1
STEP_SECONDS = 600.0

# Persistence of Redis: none (its default), or fsync before each response.
REDIS = {
    "best": {"appendonly": "no"},
    "durable": {"appendonly": "yes", "appendfsync": "always"},
}


@dataclass(frozen=True, slots=True)
class Servers:
    """URLs of Postgres and Redis; a peer gets a separate database in each."""

    database_url: str
    redis_url: str


@dataclass(frozen=True, slots=True)
class PeerProcess:
    """A peer with its environment, ready to be measured."""

    name: str
    python: Path
    versions: dict[str, str]
    settings: dict[str, str]
    supervises: bool

    @classmethod
    async def ready(cls, name: str, cache: Path) -> PeerProcess:
        """Create the peer's environment if necessary.

        Raises:
            LoadtestError: the environment cannot be created.
        """
        python = await environment_of(name, cache)
        described = await _step(name, python, "describe", {})
        versions, settings = described["versions"], described["settings"]
        return cls(name, python, versions, settings, described["supervises"])

    async def measure(self, servers: Servers, setting: str, count: int, workers: int) -> Round:
        """Store and drain ``count`` no-op tasks on empty databases.

        Raises:
            LoadtestError: a step failed, or there was no progress for a minute.
        """
        async with _empty_databases(servers, setting, count, workers) as config:
            environment = config.environment()
            await _step(self.name, self.python, "prepare", environment)
            stored = await _step(self.name, self.python, "enqueue", environment)
            connection = await asyncpg.connect(config.database_url)
            try:
                await connection.execute(SETTLE)
            finally:
                await connection.close()
            rate, cpu = await self._drain(config)
        return Round(count, count / stored["seconds"], rate, cpu)

    async def _drain(self, config: PeerConfig) -> tuple[float, float]:
        environment = config.environment()
        processes: list[Process] = []
        try:
            watcher = await self._spawn("watch", environment, stdout=PIPE)
            processes.append(watcher)
            stopwatch = Stopwatch(config.count)
            await self._poll(watcher, stopwatch)  # before any task is done
            for _ in range(1 if self.supervises else config.workers):
                process = await self._spawn("work", environment)
                processes.append(process)
            await self._watch(watcher, processes[1:], stopwatch)
            return stopwatch.rate, stopwatch.cpu_ms_per_task
        finally:
            await asyncio.gather(*(end(process) for process in processes))

    async def _watch(
        self, watcher: Process, workers: Sequence[Process], stopwatch: Stopwatch
    ) -> None:
        while not await self._poll(watcher, stopwatch):
            if any(process.returncode is not None for process in workers):
                raise LoadtestError(f"a worker of {self.name} exited, see its output above")

    async def _poll(self, watcher: Process, stopwatch: Stopwatch) -> bool:
        """Record the next count of the watcher; return True when all tasks are done."""
        assert watcher.stdout is not None  # noqa: S101 - it was opened as a pipe
        line = await watcher.stdout.readline()
        if not line:
            raise LoadtestError(f"the watcher of {self.name} exited early, see its output above")
        progress = orjson.loads(line)
        return stopwatch.record(progress["at"], progress["done"])

    async def _spawn(self, step: str, environment: dict[str, str], **how: Any) -> Process:
        return await _spawn(self.name, self.python, step, environment, **how)


@asynccontextmanager
async def _empty_databases(
    servers: Servers, setting: str, count: int, workers: int
) -> AsyncIterator[PeerConfig]:
    """Create a database, empty Redis and set its persistence; undo all of it afterwards."""
    administration = await asyncpg.connect(servers.database_url)
    client = redis.Redis.from_url(_redis_url(servers), decode_responses=True)
    before = await _configuration(client)
    try:
        await administration.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        await administration.execute(f"CREATE DATABASE {DATABASE}")
        await client.flushdb()
        for name, value in REDIS[setting].items():
            await client.config_set(name, value)
        yield PeerConfig(
            database_url=urlsplit(servers.database_url)._replace(path=f"/{DATABASE}").geturl(),
            redis_url=_redis_url(servers),
            setting=setting,
            count=count,
            workers=workers,
        )
    finally:
        with contextlib.suppress(OSError, asyncpg.PostgresError, redis.RedisError):
            for name, value in before.items():
                await client.config_set(name, value)
            await client.flushdb()
            await administration.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        await client.aclose()
        await administration.close()


async def _configuration(client: redis.Redis) -> dict[str, str]:
    """Return the current values of the settings in REDIS."""
    found = {name: await client.config_get(name) for name in REDIS["durable"]}
    return {name: str(answer[name]) for name, answer in found.items()}


def _redis_url(servers: Servers) -> str:
    return urlsplit(servers.redis_url)._replace(path=f"/{REDIS_DATABASE}").geturl()


async def _step(name: str, python: Path, step: str, environment: dict[str, str]) -> dict[str, Any]:
    """Run a step to completion and return the last line of its output, decoded from JSON."""
    process = await _spawn(name, python, step, environment, stdout=PIPE)
    try:
        async with asyncio.timeout(STEP_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        raise LoadtestError(f"{name}: {step} took more than {STEP_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            await end(process)
    if process.returncode:
        raise LoadtestError(f"{name}: {step} failed, see its output above")
    lines = output.splitlines()
    return dict(orjson.loads(lines[-1])) if lines else {}


async def _spawn(
    name: str, python: Path, step: str, environment: dict[str, str], **how: Any
) -> Process:
    root = Path(__file__).parents[2]
    search = {"PYTHONPATH": f"{root}{os.pathsep}{root / 'system'}", "PYTHONSAFEPATH": "1"}
    arguments = ["loadtest.peers.driver", name, step]
    return await spawn(arguments, environment | search, python=python, **how)
