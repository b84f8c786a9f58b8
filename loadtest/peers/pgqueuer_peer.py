"""Run PgQueuer (a queue in Postgres). It deletes finished jobs and keeps a log row."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import asyncpg
import psycopg
import uvloop
from pgqueuer import AsyncpgDriver, Job, PgQueuer, Queries

from loadtest.peers.peer_api import PeerConfig

PACKAGES = ("pgqueuer", "asyncpg")
SETTINGS = {
    "best": "durability volatile (all tables unlogged), asyncpg, uvloop, batch 100",
    "durable": "durability durable, asyncpg, uvloop, batch 100",
}
SUPERVISES = False
BATCH = 100
ENQUEUE_BATCH = 1000

LEFT = "SELECT count(*) FROM pgqueuer"


async def noop(job: Job) -> None:
    """Do nothing."""


def prepare(config: PeerConfig) -> None:
    level = "durable" if config.durable else "volatile"
    argv = [sys.executable, "-m", "pgqueuer", "install", "--durability", level]
    environment = {**os.environ, "PGDSN": config.database_url}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)


def enqueue(config: PeerConfig, count: int) -> None:
    async def store() -> None:
        connection = await asyncpg.connect(config.database_url)
        queries = Queries(AsyncpgDriver(connection))
        for first in range(0, count, ENQUEUE_BATCH):
            size = min(ENQUEUE_BATCH, count - first)
            await queries.enqueue(["noop"] * size, [b"{}"] * size, [0] * size)
        await connection.close()

    asyncio.run(store())


def work(config: PeerConfig) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(config.database_url)
        queuer = PgQueuer.from_asyncpg_connection(connection)
        queuer.entrypoint("noop")(noop)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queuer.shutdown.set)
        await queuer.run(batch_size=BATCH)

    uvloop.run(run())


def counter(config: PeerConfig) -> Callable[[], int]:
    connection = psycopg.connect(config.database_url, autocommit=True)

    def done() -> int:
        row = connection.execute(LEFT).fetchone()
        return config.count - int(row[0]) if row else 0

    return done
