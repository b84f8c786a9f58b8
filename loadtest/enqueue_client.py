"""Enqueue in the caller's own transactions, as an application does with ``holdfast.client``.

``python -m loadtest.enqueue_client DATABASE_URL SINGLY TOGETHER BATCH PAYLOAD_BYTES`` prints tasks
per second as JSON: SINGLY tasks by ``enqueue``, one per transaction, and TOGETHER tasks by
``enqueue_many``, BATCH per transaction.
"""

from __future__ import annotations

import json
import sys
import time

from sqlalchemy import create_engine

from holdfast.client import enqueue, enqueue_many
from holdfast.model.request import TaskRequest
from loadtest.inserts import payload_filler


def main(url: str, singly: int, together: int, batch: int, payload_bytes: int) -> None:
    """Measure both ways in sequence, on one connection."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    filler = payload_filler(payload_bytes)
    payloads = [{"number": number, "filler": filler} for number in range(max(singly, batch))]
    tasks = [TaskRequest(name="echo", payload=payload) for payload in payloads[:batch]]
    with engine.connect() as connection:
        started = time.perf_counter()
        for payload in payloads[:singly]:
            with connection.begin():
                enqueue(connection, "echo", payload)
        between = time.perf_counter()
        for _ in range(together // batch):
            with connection.begin():
                enqueue_many(connection, tasks)
        ended = time.perf_counter()
    engine.dispose()
    rates = {
        "singly": singly / (between - started),
        "together": together // batch * batch / (ended - between),
    }
    sys.stdout.write(json.dumps(rates) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
