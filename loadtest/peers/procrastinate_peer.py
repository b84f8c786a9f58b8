"""Procrastinate (a queue in Postgres) with its documented fast settings, in its own database.

Jobs are stored with ``batch_defer``, 1,000 in one statement, and run by worker processes with many
jobs at once and without LISTEN, which a backlog does not need. Finished jobs are kept, as Holdfast
keeps its tasks. The drain is read from Procrastinate's own events: first start to last success.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import asyncpg
from procrastinate import App, PsycopgConnector
from procrastinate.types import JSONDict

from loadtest.figures import Round
from loadtest.processes import LoadtestError, end, spawn
from loadtest.witness import SETTLE, until_drained

DATABASE = "procrastinate_peer"
URL_VARIABLE = "LOADTEST_DATABASE_URL"
BATCH = 1000
CONNECTIONS = 20

FINISHED = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
DRAIN = """
SELECT extract(epoch FROM max(at) FILTER (WHERE type = 'succeeded')
                        - min(at) FILTER (WHERE type = 'started'))::float8
FROM procrastinate_events"""


def create_app(database_url: str) -> App:
    """The app with its one task, ``noop``."""
    app = App(connector=PsycopgConnector(conninfo=database_url, max_size=CONNECTIONS))

    @app.task(name="noop")
    async def noop(number: int) -> None:
        """Does nothing."""

    return app


async def measure(server_url: str, count: int, workers: int) -> Round:
    """Store and drain ``count`` no-op jobs in a fresh database beside the one of ``server_url``.

    Raises:
        LoadtestError: a worker died, or nothing moved for a minute.
    """
    url = urlsplit(server_url)._replace(path=f"/{DATABASE}").geturl()
    administration = await asyncpg.connect(server_url)
    try:
        await administration.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        await administration.execute(f"CREATE DATABASE {DATABASE}")
        submitted_seconds = await _store(url, count)
        drained_seconds, cpu = await _drain(url, count, workers)
        await administration.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
    finally:
        await administration.close()
    return Round(count, count / submitted_seconds, count / drained_seconds, cpu)


async def _store(database_url: str, count: int) -> float:
    loop = asyncio.get_running_loop()
    async with create_app(database_url).open_async() as app:
        await app.schema_manager.apply_schema_async()
        started = loop.time()
        for first in range(0, count, BATCH):
            numbers = range(first, min(first + BATCH, count))
            jobs: list[JSONDict] = [{"number": number} for number in numbers]
            await app.tasks["noop"].batch_defer_async(*jobs)
        return loop.time() - started


async def _drain(database_url: str, count: int, workers: int) -> tuple[float, float]:
    connection = await asyncpg.connect(database_url)
    environment = {URL_VARIABLE: database_url}
    processes = []
    try:
        await connection.execute(SETTLE)
        for _ in range(workers):
            module = ["loadtest.peers.procrastinate_worker"]
            processes.append(await spawn(module, environment))

        def check() -> None:
            if any(process.returncode is not None for process in processes):
                raise LoadtestError("a worker of Procrastinate died, see its output above")

        cpu = await until_drained(count, _finished(connection), check)
        return float(await connection.fetchval(DRAIN)), cpu
    finally:
        await asyncio.gather(*(end(process) for process in processes))
        await connection.close()


def _finished(connection: asyncpg.Connection) -> Callable[[], asyncio.Future[int]]:
    return lambda: asyncio.ensure_future(connection.fetchval(FINISHED))
