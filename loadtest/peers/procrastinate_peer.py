"""Run Procrastinate (a queue in Postgres) with its documented fast settings.

Jobs are stored with ``batch_defer``, 1,000 per statement. Workers run 50 jobs concurrently without
LISTEN, which a backlog does not need: the lowest CPU per job on two cores among 10, 20 and 50 jobs,
with and without LISTEN. Finished jobs are kept, as Holdfast keeps its tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
from procrastinate import App, PsycopgConnector

from loadtest.peers.peer_api import PeerConfig

PACKAGES = ("procrastinate", "psycopg")
SETTINGS = {"durable": "50 jobs at once, no LISTEN, finished jobs kept"}
SUPERVISES = False
CONCURRENCY = 50
CONNECTIONS = 20
BATCH = 1000

DONE = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"


async def noop(number: int) -> None:
    """Do nothing."""


def create_app(config: PeerConfig) -> App:
    """Return an app with the no-op task."""
    app = App(connector=PsycopgConnector(conninfo=config.database_url, max_size=CONNECTIONS))
    app.task(noop, name="noop")
    return app


def prepare(config: PeerConfig) -> None:
    async def apply() -> None:
        async with create_app(config).open_async() as app:
            await app.schema_manager.apply_schema_async()

    asyncio.run(apply())


def enqueue(config: PeerConfig, count: int) -> None:
    async def store() -> None:
        async with create_app(config).open_async() as app:
            for first in range(0, count, BATCH):
                numbers = range(first, min(first + BATCH, count))
                jobs = [{"number": number} for number in numbers]
                await app.tasks["noop"].batch_defer_async(*jobs)

    asyncio.run(store())


def work(config: PeerConfig) -> None:
    async def run() -> None:
        async with create_app(config).open_async() as app:
            await app.run_worker_async(concurrency=CONCURRENCY, listen_notify=False)

    asyncio.run(run())


def counter(config: PeerConfig) -> Callable[[], int]:
    connection = psycopg.connect(config.database_url, autocommit=True)

    def done() -> int:
        row = connection.execute(DONE).fetchone()
        return int(row[0]) if row else 0

    return done
