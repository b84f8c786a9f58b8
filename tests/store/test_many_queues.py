"""The cost of scans by the number of queues, in pages read: the same on every machine.

Queues with only future tasks cost nothing. With many due tasks, the cost is linear in the queues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, TextClause, create_engine, text

from holdfast.devstack.servers import EmbeddedPostgres
from holdfast.store import scans

QUEUES = (100, 1000, 10_000)
BATCH = 500
_PAGES_PER_QUEUE = 10  # fewer do not count as growth
SCANS: dict[str, tuple[TextClause, dict[str, Any]]] = {
    "dispatch": (
        scans.DISPATCH,
        {"n": BATCH, "scan": BATCH, "depth": 2000, "deadline": 10.0, "actor": "test"},
    ),
    "backlog": (scans.BACKLOG, {"cap": 10_000, "scan": BATCH}),
}
_TASKS = text("""
INSERT INTO holdfast.tasks (id, queue, priority, name, due_at, state, epoch, seq, attempt, losses,
  handed_back, unhandled, max_attempts, max_losses, timeout_seconds, payload_bytes,
  cancel_requested, publishes, hint_deadline, state_since)
SELECT gen_random_uuid(), 'queue ' || n % :queues, 0, 'echo', now + :due * interval '1 h',
  CAST(:state AS text), 0, 1, 0, 0, 0, 0, 5, 3, 60, 2, false, 0,
  CASE WHEN CAST(:state AS text) = 'QUEUED' THEN now END, now
FROM clock_timestamp() AS now, generate_series(1, :tasks) AS n""")


def many(connection: Connection, queues: int, tasks: int, due: int, state: str) -> None:
    parameters = {"queues": queues, "tasks": tasks, "due": due, "state": state}
    connection.execute(_TASKS, parameters)


def future(connection: Connection, queues: int) -> None:
    """Two future tasks per queue, and one due task in one queue."""
    many(connection, queues, 2 * queues, 24, "SCHEDULED")
    many(connection, 1, 1, -1, "SCHEDULED")


def behind_a_backlog(connection: Connection, queues: int) -> None:
    """Future tasks in many queues, and a backlog in one: more due tasks than a scan reads."""
    many(connection, queues, 2 * queues, 24, "SCHEDULED")
    many(connection, 1, 2 * BATCH, -1, "SCHEDULED")


def due(connection: Connection, queues: int) -> None:
    """Two due tasks and a queued one in each queue."""
    many(connection, queues, 2 * max(queues, BATCH), -1, "SCHEDULED")
    many(connection, queues, queues, -1, "QUEUED")


@pytest.fixture(scope="module")
def engine(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[Engine]:
    postgres.create_database("queues", template=migrated_template)
    url = postgres.url("queues").replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    yield engine
    engine.dispose()
    postgres.drop_database("queues")


def pages(engine: Engine, name: str, fill: Callable[[Connection, int], None], queues: int) -> int:
    """Return the pages that a scan reads with these tasks; undo everything."""
    statement, parameters = SCANS[name]
    with engine.connect() as connection:
        fill(connection, queues)
        connection.execute(text("ANALYZE holdfast.tasks"))
        explain = text(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}")
        plan = connection.execute(explain, parameters).scalar_one()[0]["Plan"]
        connection.rollback()
    found: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return found


@pytest.mark.parametrize("name", SCANS)
def test_queues_with_only_future_tasks_cost_nothing(engine: Engine, name: str) -> None:
    few, _, most = (pages(engine, name, future, queues) for queues in QUEUES)
    assert most <= few + 200, (few, most)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fill", [behind_a_backlog, due])
@pytest.mark.parametrize("name", SCANS)
def test_cost_is_at_most_linear_in_the_queues(
    engine: Engine, name: str, fill: Callable[[Connection, int], None]
) -> None:
    read = [pages(engine, name, fill, queues) for queues in QUEUES]
    # With few queues the planner chooses between plans, of which the best reads hardly a page each.
    few, some, most = (
        max(each, _PAGES_PER_QUEUE * queues) for each, queues in zip(read, QUEUES, strict=True)
    )
    assert some <= 12 * few, read
    assert most <= 12 * some, read
