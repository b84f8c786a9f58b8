"""A program that enqueues in its own transactions, as a user's would: ``holdfast.client``.

``python -m loadtest.enqueue_client DATABASE_URL SINGLY TOGETHER BATCH`` prints tasks per second as
JSON: one ``enqueue`` and one COMMIT for each of SINGLY tasks, and TOGETHER tasks by
``enqueue_many``, BATCH in each transaction.
"""

from __future__ import annotations

import json
import sys
import time

from sqlalchemy import create_engine

from holdfast.client import enqueue, enqueue_many
from holdfast.model.request import TaskRequest


def main(url: str, singly: int, together: int, batch: int) -> None:
    """Measures one after the other, on one connection."""
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
