"""Run Dramatiq on Redis. In both settings messages are acknowledged after processing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from loadtest.peers.peer_api import PeerConfig

PACKAGES = ("dramatiq", "redis")
SETTINGS = {
    "best": "8 threads in each process, prefetch 1000; Redis without AOF",
    "durable": "the same; Redis AOF, fsync always",
}
SUPERVISES = True
THREADS = 8
PREFETCH = 1000

broker = RedisBroker(url=PeerConfig.from_environment().redis_url)
dramatiq.set_broker(broker)


def _noop(number: int) -> None:
    """Do nothing."""


noop = dramatiq.actor(_noop, actor_name="noop", broker=broker)


def prepare(config: PeerConfig) -> None:
    """Need no preparation."""


def enqueue(config: PeerConfig, count: int) -> None:
    for number in range(count):
        noop.send(number)


def work(config: PeerConfig) -> None:
    os.environ["dramatiq_queue_prefetch"] = str(PREFETCH)  # noqa: SIM112 - the name is Dramatiq's
    argv = [sys.executable, "-m", "dramatiq", "loadtest.peers.dramatiq_peer"]
    argv += ["--processes", str(config.workers), "--threads", str(THREADS), "--skip-logging"]
    os.execv(sys.executable, argv)  # noqa: S606 - no shell wanted


def counter(config: PeerConfig) -> Callable[[], int]:
    client = redis.Redis.from_url(config.redis_url)
    return lambda: config.count - client.hlen("dramatiq:default.msgs")
