"""Measure one peer: run its steps as processes of its environment on the given servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
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
from loadtest.peers.peer_api import EFFECTS, PeerConfig
from loadtest.processes import LoadtestError, end, kill, spawn
from loadtest.stopwatch import Stopwatch
from loadtest.worker_kill import DrainFigures, WorkerKill, drained_with_kill

NAMES = ("celery", "rq", "dramatiq", "arq", "taskiq", "procrastinate", "pgqueuer", "dbos")
DATABASE = "holdfast_peer"
REDIS_DATABASE = 1
STEP_SECONDS = 600.0
# Peers whose handlers can have an effect, and the time in which the tasks of a killed worker are
# done: when its time-out is over (PgQueuer: 30 s, and up to 30 s between two polls of an idle
# worker; Dramatiq: 30 s; Procrastinate: 30 s and up to a minute), and 60 s for a busy machine.
REDELIVERY_SECONDS = {"dramatiq": 90.0, "procrastinate": 150.0, "pgqueuer": 120.0}

CREATE_EFFECTS = f"CREATE TABLE {EFFECTS} (number bigint PRIMARY KEY, filler text NOT NULL)"
COUNT_EFFECTS = f"""
SELECT count(*) AS rows, count(DISTINCT number) FILTER (WHERE number BETWEEN 0 AND $1 - 1) AS tasks
FROM {EFFECTS}"""

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
class PeerLoad:
    """``count`` tasks for ``workers`` processes at a setting; ``effect`` as in PeerConfig."""

    setting: str
    count: int
    workers: int
    payload_bytes: int = 256
    effect: str = ""


@dataclass(frozen=True, slots=True)
class PeerProcess:
    """A peer with its environment, ready to be measured. ``effect``: what it sets for one."""

    name: str
    python: Path
    versions: dict[str, str]
    settings: dict[str, str]
    effect: str
    supervises: bool

    @classmethod
    async def ready(cls, name: str, cache: Path) -> PeerProcess:
        """Create the peer's environment if necessary.

        Raises:
            LoadtestError: the environment cannot be created.
        """
        python = await environment_of(name, cache)
        described = await _step(name, python, "describe", {})
        return cls(name, python, **described)

    async def measure(self, servers: Servers, load: PeerLoad) -> Round:
        """Store and drain tasks on empty databases; with an effect, kill a worker in the middle.

        Raises:
            LoadtestError: a step failed, or there was no progress for a minute without an effect.
        """
        async with _empty_databases(servers, load) as config:
            environment = config.environment()
            await _step(self.name, self.python, "prepare", environment)
            stored = await _step(self.name, self.python, "enqueue", environment)
            connection = await asyncpg.connect(config.database_url)
            try:
                if load.effect:
                    await connection.execute(CREATE_EFFECTS)
                await connection.execute(SETTLE)
                drained = await self._drain(config, load)
                if load.effect and not drained.fault:
                    drained = await _checked(connection, load.count, drained)
            finally:
                await connection.close()
        rate = load.count / stored["seconds"]
        return Round(load.count, rate, drained.rate, drained.cpu_ms_per_task, fault=drained.fault)

    async def _drain(self, config: PeerConfig, load: PeerLoad) -> DrainFigures:
        environment = config.environment()
        processes = load.workers // config.workers if self.supervises else load.workers
        workers: list[Process] = []
        watcher = await self._spawn("watch", environment, stdout=PIPE)

        async def progress() -> tuple[float, int]:
            if any(process.returncode is not None for process in workers):
                raise LoadtestError(f"a worker of {self.name} exited, see its output above")
            return await self._progress(watcher)

        async def restart() -> None:
            await kill(workers.pop(0))
            workers.append(await self._spawn("work", environment))

        try:
            stopwatch = Stopwatch(config.count)
            stopwatch.record(*await progress())  # before any task is done
            while len(workers) < processes:
                workers.append(await self._spawn("work", environment))
            if load.effect:
                killed = WorkerKill(restart, REDELIVERY_SECONDS[self.name])
                return await drained_with_kill(config.count, progress, killed)
            while not stopwatch.record(*await progress()):
                pass
            return DrainFigures.of(stopwatch)
        finally:
            await asyncio.gather(*(end(process) for process in (watcher, *workers)))

    async def _progress(self, watcher: Process) -> tuple[float, int]:
        """Return the next count of the watcher and its time."""
        assert watcher.stdout is not None  # noqa: S101 - it was opened as a pipe
        line = await watcher.stdout.readline()
        if not line:
            raise LoadtestError(f"the watcher of {self.name} exited early, see its output above")
        progress = orjson.loads(line)
        return progress["at"], progress["done"]

    async def _spawn(self, step: str, environment: dict[str, str], **how: Any) -> Process:
        return await _spawn(self.name, self.python, step, environment, **how)


async def _checked(
    connection: asyncpg.Connection, count: int, drained: DrainFigures
) -> DrainFigures:
    """Return ``drained`` if each task left exactly one row, else figures without a rate."""
    rows, tasks = await connection.fetchrow(COUNT_EFFECTS, count) or (0, 0)
    if rows == tasks == count:
        return drained
    fault = f"{count:,} tasks left {rows:,} rows, for {tasks:,} of the tasks"
    return DrainFigures.without_rate(fault)


@asynccontextmanager
async def _empty_databases(servers: Servers, load: PeerLoad) -> AsyncIterator[PeerConfig]:
    """Create a database, empty Redis and set its persistence; undo all of it afterwards."""
    administration = await asyncpg.connect(servers.database_url)
    client = redis.Redis.from_url(_redis_url(servers), decode_responses=True)
    before = await _configuration(client)
    try:
        await administration.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        await administration.execute(f"CREATE DATABASE {DATABASE}")
        await client.flushdb()
        for name, value in REDIS[load.setting].items():
            await client.config_set(name, value)
        yield PeerConfig(
            database_url=urlsplit(servers.database_url)._replace(path=f"/{DATABASE}").geturl(),
            redis_url=_redis_url(servers),
            setting=load.setting,
            count=load.count,
            # With an effect each process has a supervisor of its own, which is killed with it.
            workers=1 if load.effect else load.workers,
            payload_bytes=load.payload_bytes,
            effect=load.effect,
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
