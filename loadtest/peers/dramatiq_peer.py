"""Run Dramatiq on Redis. In both settings messages are acknowledged after processing."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import dramatiq
import psycopg
import redis
from dramatiq.brokers.redis import RedisBroker

from loadtest.peers.peer_api import INSERT_PSYCOPG, PeerConfig

PACKAGES = ("dramatiq", "redis", "psycopg")
SETTINGS = {
    "best": "8 threads in each process, prefetch 1000; Redis without AOF",
    "durable": "8 threads in each process, prefetch 1000; Redis AOF, fsync always",
}
EFFECT = (
    "instead prefetch 100 (a killed worker withholds what it prefetched); heartbeat_timeout 30 s, "
    "maintenance with a tenth of the commands (else an idle queue waits minutes for it); one "
    "connection to Postgres in each thread"
)
SUPERVISES = True
THREADS = 8
PREFETCH = 1000
PREFETCH_EFFECT = 100
HEARTBEAT_TIMEOUT_MS = 30_000
MAINTENANCE_CHANCE = 100_000  # of a million

_config = PeerConfig.from_environment()
_redelivery = {
    "heartbeat_timeout": HEARTBEAT_TIMEOUT_MS,
    "maintenance_chance": MAINTENANCE_CHANCE,
}
broker = RedisBroker(url=_config.redis_url, **(_redelivery if _config.effect else {}))
dramatiq.set_broker(broker)
_thread = threading.local()


def _noop(number: int, filler: str) -> None:
    """Do nothing."""


def _insert(number: int, filler: str) -> None:
    """Leave one row."""
    if not hasattr(_thread, "connection"):
        _thread.connection = psycopg.connect(_config.database_url)
    with _thread.connection.transaction():
        _thread.connection.execute(INSERT_PSYCOPG, _config.row(number, filler))


noop = dramatiq.actor(_insert if _config.effect else _noop, actor_name="noop", broker=broker)


def prepare(config: PeerConfig) -> None:
    """Need no preparation."""


def enqueue(config: PeerConfig, count: int) -> None:
    filler = config.filler
    for number in range(count):
        noop.send(number, filler)


def work(config: PeerConfig) -> None:
    prefetch = PREFETCH_EFFECT if config.effect else PREFETCH
    os.environ["dramatiq_queue_prefetch"] = str(prefetch)  # noqa: SIM112 - the name is Dramatiq's
    argv = [sys.executable, "-m", "dramatiq", "loadtest.peers.dramatiq_peer"]
    argv += ["--processes", str(config.workers), "--threads", str(THREADS), "--skip-logging"]
    os.execv(sys.executable, argv)  # noqa: S606 - no shell wanted


def counter(config: PeerConfig) -> Callable[[], int]:
    client = redis.Redis.from_url(config.redis_url)
    return lambda: config.count - client.hlen("dramatiq:default.msgs")
