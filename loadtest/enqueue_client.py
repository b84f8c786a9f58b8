"""Enqueue in the caller's own transactions, as an application does with ``holdfast.client``.

``python -m loadtest.enqueue_client DATABASE_URL SINGLY TOGETHER BATCH`` prints tasks per second as
JSON: SINGLY tasks by ``enqueue``, one per transaction, and TOGETHER tasks by ``enqueue_many``,
BATCH per transaction.
"""

from __future__ import annotations

import json
import sys
import time

from sqlalchemy import create_engine

from holdfast.client import enqueue, enqueue_many
from holdfast.model.request import TaskRequest


def main(url: str, singly: int, together: int, batch: int) -> None:
    """Measure both ways in sequence, on one connection."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    tasks = [TaskRequest(name="echo", payload={"number": number}) for number in range(batch)]
    with engine.connect() as connection:
        started = time.perf_counter()
        for number in range(singly):
            with connection.begin():
                enqueue(connection, "echo", {"number": number})
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
