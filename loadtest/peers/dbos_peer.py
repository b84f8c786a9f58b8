"""Run DBOS Transact (durable workflows in Postgres): a no-op workflow on one queue."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
from dbos import DBOS, DBOSClient, DBOSConfig

from loadtest.peers.peer_api import PeerConfig

PACKAGES = ("dbos", "sqlalchemy", "psycopg")
SETTINGS = {"durable": "queue polled every 50 ms, 100 workflows at once in each process"}
SUPERVISES = False
QUEUE = "noop"
AT_ONCE = 100
POLL_SECONDS = 0.05
CLIENTS = 8

DONE = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"


def noop(number: int, filler: str) -> None:
    """Do nothing."""


def _launch(config: PeerConfig) -> None:
    settings: DBOSConfig = {
        "name": "noop",
        "system_database_url": config.database_url,
        "application_version": "1",
        "executor_id": str(os.getpid()),
        "log_level": "ERROR",
    }
    DBOS(config=settings)
    DBOS.workflow(name="noop")(noop)
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=AT_ONCE, polling_interval_sec=POLL_SECONDS)


def prepare(config: PeerConfig) -> None:
    """Create schema and queue, as a first start does."""
    _launch(config)
    DBOS.destroy()


def enqueue(config: PeerConfig, count: int) -> None:
    client = DBOSClient(system_database_url=config.database_url)

    filler = config.filler

    def store(number: int) -> None:
        client.enqueue(
            {"workflow_name": "noop", "queue_name": QUEUE, "app_version": "1"}, number, filler
        )

    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in pool.map(store, range(count)):
            pass
    client.destroy()


def work(config: PeerConfig) -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    _launch(config)
    stopping.wait()
    DBOS.destroy()


def counter(config: PeerConfig) -> Callable[[], int]:
    connection = psycopg.connect(config.database_url, autocommit=True)

    def done() -> int:
        row = connection.execute(DONE).fetchone()
        return int(row[0]) if row else 0

    return done
