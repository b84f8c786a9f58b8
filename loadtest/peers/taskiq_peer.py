"""Run taskiq on Redis streams."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

import redis
from taskiq_redis import RedisStreamBroker

from loadtest.peers.peer_api import PeerConfig

PACKAGES = ("taskiq", "taskiq-redis", "redis")
SETTINGS = {
    "best": "streams, uvloop, 100 at once, acks when received; Redis without AOF",
    "durable": "streams, uvloop, 100 at once, acks when executed; Redis AOF, fsync always",
}
SUPERVISES = True
GROUP = "taskiq"
STREAM = "taskiq"
AT_ONCE = 100

broker = RedisStreamBroker(
    PeerConfig.from_environment().redis_url, queue_name=STREAM, consumer_group_name=GROUP
)


async def _noop(number: int, filler: str) -> None:
    """Do nothing."""


noop = broker.register_task(_noop, task_name="noop")


def prepare(config: PeerConfig) -> None:
    """Create the stream and its group, as a first start does."""

    async def start() -> None:
        await broker.startup()
        await broker.shutdown()

    asyncio.run(start())


def enqueue(config: PeerConfig, count: int) -> None:
    filler = config.filler

    async def store() -> None:
        await broker.startup()
        for first in range(0, count, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, count))
            await asyncio.gather(*(noop.kiq(number, filler) for number in numbers))
        await broker.shutdown()

    asyncio.run(store())


def work(config: PeerConfig) -> None:
    ack = "when_executed" if config.durable else "when_received"
    argv = [sys.executable, "-m", "taskiq", "worker", "loadtest.peers.taskiq_peer:broker"]
    argv += ["--workers", str(config.workers), "--ack-type", ack, "--log-level", "ERROR"]
    os.execv(sys.executable, argv)  # noqa: S606 - no shell wanted


def counter(config: PeerConfig) -> Callable[[], int]:
    client = redis.Redis.from_url(config.redis_url)

    def done() -> int:
        group = client.xinfo_groups(STREAM)[0]
        return int(group["entries-read"] or 0) - int(group["pending"])

    return done
