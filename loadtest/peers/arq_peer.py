"""Run arq on Redis. In both settings a job stays in the sorted set until it has run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import redis
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func

from loadtest.peers.peer_api import PeerConfig

PACKAGES = ("arq", "redis")
SETTINGS = {
    "best": "100 jobs at once, poll 50 ms, results not kept; Redis without AOF",
    "durable": "100 jobs at once, poll 50 ms, results kept; Redis AOF, fsync always",
}
SUPERVISES = False
JOBS = 100
AT_ONCE = 100


async def noop(ctx: dict[str, Any], number: int, filler: str) -> None:
    """Do nothing."""


def prepare(config: PeerConfig) -> None:
    """Need no preparation."""


def enqueue(config: PeerConfig, count: int) -> None:
    async def store() -> None:
        filler = config.filler
        pool = await create_pool(RedisSettings.from_dsn(config.redis_url))
        for first in range(0, count, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, count))
            jobs = (pool.enqueue_job("noop", number, filler) for number in numbers)
            await asyncio.gather(*jobs)
        await pool.aclose()

    asyncio.run(store())


def work(config: PeerConfig) -> None:
    keep = 3600 if config.durable else 0
    asyncio.set_event_loop(asyncio.new_event_loop())  # Worker uses the current loop
    Worker(
        [func(noop, name="noop", keep_result=keep)],
        redis_settings=RedisSettings.from_dsn(config.redis_url),
        max_jobs=JOBS,
        poll_delay=0.05,
        log_results=False,
    ).run()


def counter(config: PeerConfig) -> Callable[[], int]:
    client = redis.Redis.from_url(config.redis_url)
    return lambda: config.count - client.zcard("arq:queue")
