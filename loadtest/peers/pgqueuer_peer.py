"""Run PgQueuer (a queue in Postgres). It deletes finished jobs and keeps a log row."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable

import asyncpg
import psycopg
import uvloop
from pgqueuer import AsyncpgDriver, Job, PgQueuer, Queries

from loadtest.peers.peer_api import INSERT_ASYNCPG, PeerConfig

PACKAGES = ("pgqueuer", "asyncpg")
SETTINGS = {
    "best": "durability volatile (all tables unlogged), asyncpg, uvloop, batch 100",
    "durable": "durability durable, asyncpg, uvloop, batch 100",
}
EFFECT = (
    "at most 200 jobs at once in each worker (else it picks the whole queue and a kill withholds "
    "it); heartbeat_timeout 30 s (its default); a pool of 10 connections in each worker"
)
SUPERVISES = False
BATCH = 100
AT_ONCE = 2 * BATCH  # the least that it accepts
CONNECTIONS = 10
ENQUEUE_BATCH = 1000

LEFT = "SELECT count(*) FROM pgqueuer"


async def noop(job: Job) -> None:
    """Do nothing."""


def inserting(config: PeerConfig, pool: asyncpg.Pool) -> Callable[[Job], Awaitable[None]]:
    """Return a handler that leaves one row."""

    async def insert(job: Job) -> None:
        payload = json.loads(job.payload or b"{}")
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(
                INSERT_ASYNCPG, *config.row(payload["number"], payload["filler"])
            )

    return insert


def prepare(config: PeerConfig) -> None:
    level = "durable" if config.durable else "volatile"
    argv = [sys.executable, "-m", "pgqueuer", "install", "--durability", level]
    environment = {**os.environ, "PGDSN": config.database_url}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)


def enqueue(config: PeerConfig, count: int) -> None:
    filler = config.filler

    def payload(number: int) -> bytes:
        return json.dumps({"number": number, "filler": filler}).encode()

    async def store() -> None:
        connection = await asyncpg.connect(config.database_url)
        queries = Queries(AsyncpgDriver(connection))
        for first in range(0, count, ENQUEUE_BATCH):
            payloads = [payload(n) for n in range(first, min(first + ENQUEUE_BATCH, count))]
            size = len(payloads)
            await queries.enqueue(["noop"] * size, payloads, [0] * size)
        await connection.close()

    asyncio.run(store())


def work(config: PeerConfig) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(config.database_url)
        queuer = PgQueuer.from_asyncpg_connection(connection)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queuer.shutdown.set)
        if not config.effect:
            queuer.entrypoint("noop")(noop)
            await queuer.run(batch_size=BATCH)
            return
        async with asyncpg.create_pool(
            config.database_url, min_size=CONNECTIONS, max_size=CONNECTIONS
        ) as pool:
            queuer.entrypoint("noop")(inserting(config, pool))
            await queuer.run(batch_size=BATCH, max_concurrent_tasks=AT_ONCE)

    uvloop.run(run())


def counter(config: PeerConfig) -> Callable[[], int]:
    connection = psycopg.connect(config.database_url, autocommit=True)

    def done() -> int:
        row = connection.execute(LEFT).fetchone()
        return config.count - int(row[0]) if row else 0

    return done
