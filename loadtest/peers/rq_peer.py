"""Run RQ on Redis. Its default worker forks for each job; SimpleWorker does not."""

from __future__ import annotations

from collections.abc import Callable

import redis
from rq import Queue
from rq.worker import SimpleWorker, Worker

from loadtest.peers.peer_api import PeerConfig

PACKAGES = ("rq", "redis")
SETTINGS = {
    "best": "SimpleWorker (no fork), results not kept; Redis without AOF",
    "durable": "Worker (a fork per job outlives its crash), results kept; Redis AOF, fsync always",
}
SUPERVISES = False
BATCH = 1000


def noop(number: int, filler: str) -> None:
    """Do nothing."""


def prepare(config: PeerConfig) -> None:
    """Need no preparation."""


def enqueue(config: PeerConfig, count: int) -> None:
    queue = Queue(connection=redis.Redis.from_url(config.redis_url))
    ttl, filler = None if config.durable else 0, config.filler
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        jobs = [Queue.prepare_data(noop, (number, filler), result_ttl=ttl) for number in numbers]
        queue.enqueue_many(jobs)


def work(config: PeerConfig) -> None:
    kind = Worker if config.durable else SimpleWorker
    connection = redis.Redis.from_url(config.redis_url)
    kind([Queue(connection=connection)], connection=connection).work(logging_level="ERROR")


def counter(config: PeerConfig) -> Callable[[], int]:
    client = redis.Redis.from_url(config.redis_url)

    def done() -> int:
        with client.pipeline() as pipe:
            pipe.llen("rq:queue:default")
            pipe.zcard("rq:wip:default")
            left: list[int] = pipe.execute()
        return config.count - sum(left)

    return done
