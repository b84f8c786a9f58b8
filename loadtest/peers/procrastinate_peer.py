"""Run Procrastinate (a queue in Postgres) with its documented fast settings.

Jobs are stored with ``batch_defer``, 1,000 per statement. Workers run 50 jobs concurrently without
LISTEN, which a backlog does not need: the lowest CPU per job on two cores among 10, 20 and 50 jobs,
with and without LISTEN. Finished jobs are kept, as Holdfast keeps its tasks. With an effect, the
periodic task of its guide "Retry stalled jobs" stores those of a killed worker again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
from procrastinate import App, PsycopgConnector
from procrastinate.job_context import JobContext
from psycopg_pool import AsyncConnectionPool

from loadtest.peers.peer_api import INSERT_PSYCOPG, PeerConfig

PACKAGES = ("procrastinate", "psycopg")
SETTINGS = {"durable": "50 jobs at once, no LISTEN, finished jobs kept"}
EFFECT = (
    "its periodic task that retries stalled jobs, every minute (heartbeat older than 30 s, its "
    "default); a pool of 10 further connections in each worker"
)
SUPERVISES = False
EFFECT_CONNECTIONS = 10
EVERY_MINUTE = "* * * * *"
CONCURRENCY = 50
CONNECTIONS = 20
BATCH = 1000

DONE = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded' AND task_name = 'noop'"


async def noop(number: int, filler: str) -> None:
    """Do nothing."""


def inserting(
    config: PeerConfig, pool: AsyncConnectionPool
) -> Callable[[int, str], Awaitable[None]]:
    """Return a handler that leaves one row."""

    async def insert(number: int, filler: str) -> None:
        async with pool.connection() as connection, connection.transaction():
            await connection.execute(INSERT_PSYCOPG, config.row(number, filler))

    return insert


async def retry_stalled_jobs(context: JobContext, timestamp: int) -> None:
    """Store the jobs of dead workers again."""
    manager = context.app.job_manager
    for job in await manager.get_stalled_jobs():
        await manager.retry_job(job)


def create_app(config: PeerConfig) -> App:
    """Return an app without tasks."""
    return App(connector=PsycopgConnector(conninfo=config.database_url, max_size=CONNECTIONS))


def prepare(config: PeerConfig) -> None:
    async def apply() -> None:
        async with create_app(config).open_async() as app:
            await app.schema_manager.apply_schema_async()

    asyncio.run(apply())


def enqueue(config: PeerConfig, count: int) -> None:
    async def store() -> None:
        filler = config.filler
        async with create_app(config).open_async() as app:
            app.task(noop, name="noop")
            for first in range(0, count, BATCH):
                numbers = range(first, min(first + BATCH, count))
                jobs = [{"number": number, "filler": filler} for number in numbers]
                await app.tasks["noop"].batch_defer_async(*jobs)

    asyncio.run(store())


def work(config: PeerConfig) -> None:
    async def run() -> None:
        async with create_app(config).open_async() as app:
            if not config.effect:
                app.task(noop, name="noop")
                await app.run_worker_async(concurrency=CONCURRENCY, listen_notify=False)
                return
            async with AsyncConnectionPool(
                config.database_url, min_size=EFFECT_CONNECTIONS, max_size=EFFECT_CONNECTIONS
            ) as pool:
                app.task(inserting(config, pool), name="noop")
                recover = app.task(
                    retry_stalled_jobs, queueing_lock="retry_stalled_jobs", pass_context=True
                )
                app.periodic(cron=EVERY_MINUTE)(recover)
                await app.run_worker_async(concurrency=CONCURRENCY, listen_notify=False)

    asyncio.run(run())


def counter(config: PeerConfig) -> Callable[[], int]:
    connection = psycopg.connect(config.database_url, autocommit=True)

    def done() -> int:
        row = connection.execute(DONE).fetchone()
        return int(row[0]) if row else 0

    return done
