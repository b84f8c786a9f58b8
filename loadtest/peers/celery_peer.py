"""Run Celery on Redis with a prefork pool, tuned by its "Optimizing" guide for short tasks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import redis
from celery import Celery

from loadtest.peers.peer_api import PeerConfig

PACKAGES = ("celery", "kombu", "redis")
SETTINGS = {
    "best": "prefork, prefetch 128, results ignored, acks early; Redis without AOF",
    "durable": "the same with acks_late and reject_on_worker_lost; Redis AOF, fsync always",
}
SUPERVISES = True

_config = PeerConfig.from_environment()
app = Celery("noop", broker=_config.redis_url)
app.conf.update(
    task_ignore_result=True,
    task_acks_late=_config.durable,
    task_reject_on_worker_lost=_config.durable,
    worker_prefetch_multiplier=128,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


def _noop(number: int, filler: str) -> None:
    """Do nothing."""


noop = app.task(_noop, name="noop")


def prepare(config: PeerConfig) -> None:
    """Need no preparation."""


def enqueue(config: PeerConfig, count: int) -> None:
    filler = config.filler
    with app.producer_or_acquire() as producer:
        for number in range(count):
            noop.apply_async((number, filler), producer=producer)


def work(config: PeerConfig) -> None:
    options = ["--pool", "prefork", "--concurrency", str(config.workers), "--loglevel", "WARNING"]
    options += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    os.environ["PYTHONWARNINGS"] = "ignore"  # it warns when run as root
    argv = [sys.executable, "-m", "celery", "--app", "loadtest.peers.celery_peer", "worker"]
    os.execv(sys.executable, [*argv, *options])  # noqa: S606 - no shell wanted


def counter(config: PeerConfig) -> Callable[[], int]:
    client = redis.Redis.from_url(config.redis_url)

    def done() -> int:
        with client.pipeline() as pipe:
            pipe.llen("celery")
            pipe.hlen("unacked")
            left: list[int] = pipe.execute()
        return config.count - sum(left)

    return done
