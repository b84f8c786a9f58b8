"""No transition may scan the whole table: future and finished tasks must not add to its cost.

Plans are checked on a table with far more future and finished tasks than due ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Engine, TextClause, create_engine, text

from holdfast.devstack.servers import EmbeddedPostgres
from holdfast.store import scans, single, transitions

_TASKS = """
WITH inserted AS (
INSERT INTO holdfast.tasks (id, queue, priority, name, due_at, state, epoch, seq, attempt, losses,
  handed_back, unhandled, max_attempts, max_losses, timeout_seconds, payload_bytes,
  cancel_requested, publishes, finished_at, hint_deadline, worker_id, claim_token, claimed_at,
  state_since)
SELECT gen_random_uuid(), 'default', 0, 'echo', now + due * interval '1 h',
  state, epoch, 1, 1, 0, 0, 0, 5, 3, 60, 2, false, 0, CASE WHEN state = 'SUCCEEDED' THEN now END,
  CASE WHEN state = 'QUEUED' THEN now END, CASE WHEN epoch = 1 THEN w.id END,
  CASE WHEN epoch = 1 THEN w.id END, CASE WHEN epoch = 1 THEN now END, now
FROM clock_timestamp() AS now, (SELECT gen_random_uuid() AS id) AS w,
  (VALUES ('SCHEDULED', 0, 24, 20000), ('SUCCEEDED', 2, 0, 20000), ('SCHEDULED', 0, -1, 60),
          ('QUEUED', 0, 0, 60), ('RUNNING', 1, 0, 60)) AS kinds(state, epoch, due, many),
  generate_series(1, many) RETURNING id, due_at, state_since)
INSERT INTO holdfast.requests (id, key_namespace, fingerprint, payload, run_at, created_at)
SELECT id, 'default', '', '{}', due_at, state_since FROM inserted"""

_LIMITS = {"n": 50, "actor": "test"}
_ENDS: dict[str, Any] = {"ids": [UUID(int=n) for n in range(20)], "worker": UUID(int=1)}
_EPOCHS = {"epochs": [1] * 20}

SENT: dict[str, tuple[TextClause, dict[str, Any]]] = {
    "dispatch": (scans.DISPATCH, {**_LIMITS, "scan": 50, "depth": 2000, "deadline": 10.0}),
    "backlog": (scans.BACKLOG, {"cap": 1000, "scan": 1000}),
    "republish": (scans.REPUBLISH, {**_LIMITS, "deadline": 1.0, "deadline_max": 9.0}),
    "expire_hints": (scans.EXPIRE_HINTS, {"n": 50, "since": datetime.now(UTC), "deadline": 10.0}),
    "restart_hint_deadlines": (
        transitions.RESTART_HINT_DEADLINES,
        {"ids": _ENDS["ids"], "deadline": 1.0},
    ),
    "reclaim": (scans.RECLAIM, {**_LIMITS, "grace": 10.0, "lease": 15.0}),
    "claim": (
        transitions.CLAIM,
        {
            **_ENDS,
            **_EPOCHS,
            "token": UUID(int=2),
            "actor": "test",
            "exclusive": True,
            "bytes": 1,
        },
    ),
    "heartbeat": (
        transitions.HEARTBEAT,
        {"worker": UUID(int=1), "lease": 3.0, "begun_until": None},
    ),
    "finish": (transitions.FINISH, {**_ENDS, **_EPOCHS, "results": ["1"] * 20, "actor": "test"}),
    "finish_one": (
        single.FINISH_ONE,
        {
            "id": UUID(int=1),
            "epoch": 1,
            "result": "1",
            "worker": UUID(int=1),
            "actor": "test",
        },
    ),
    "release": (
        transitions.RELEASE,
        {
            **_ENDS,
            **_EPOCHS,
            "reasons": ["failed"] * 20,
            "delays": [1.0] * 20,
            "details": [None] * 20,
            "unhandled": [False] * 20,
            "actor": "test",
        },
    ),
    "cancel": (transitions.CANCEL, {"ids": _ENDS["ids"], "actor": "test"}),
    "retry": (transitions.RETRY, {"ids": _ENDS["ids"], "actor": "test"}),
    "story": (transitions.STORY, {"id": UUID(int=1), "events_max": 500, "bytes": 1}),
    "events": (transitions.EVENTS, {"id": UUID(int=1), "n": 100, "after": 0, "bytes": 1}),
}


@pytest.fixture(scope="module")
def crowded(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[Engine]:
    postgres.create_database("crowded", template=migrated_template)
    database_url = postgres.url("crowded")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(_TASKS)
        connection.execute("VACUUM ANALYZE")
    engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    yield engine
    engine.dispose()
    postgres.drop_database("crowded")


def _generic(statement: TextClause) -> str:
    """Return the EXPLAIN of a prepared statement, planned without its parameters."""
    names: dict[str, int] = {}
    numbered = re.sub(
        r"(?<!:):([a-z_]+)", lambda m: f"${names.setdefault(m[1], len(names) + 1)}", str(statement)
    )
    return f"EXPLAIN (GENERIC_PLAN) {numbered}"


@pytest.mark.parametrize("name", SENT)
def test_no_transition_scans_the_whole_table(crowded: Engine, name: str) -> None:
    statement, parameters = SENT[name]
    with crowded.connect() as connection:
        custom = connection.execute(text(f"EXPLAIN {statement}"), parameters).scalars().all()
        generic = connection.exec_driver_sql(_generic(statement)).scalars().all()
    for lines in (custom, generic):
        plan = "\n".join(lines)
        assert "tasks_" in plan
        assert "Seq Scan on tasks" not in plan, plan
        assert "Seq Scan on requests" not in plan, plan


@pytest.fixture(scope="module")
def empty(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[Engine]:
    postgres.create_database("empty", template=migrated_template)
    database_url = postgres.url("empty")
    engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    yield engine
    engine.dispose()
    postgres.drop_database("empty")


@pytest.mark.parametrize(
    "name", ["claim", "finish", "release", "cancel", "retry", "restart_hint_deadlines"]
)
@pytest.mark.parametrize("rows", ["crowded", "empty"])
def test_ids_are_not_joined_by_nested_comparison(
    name: str, rows: str, request: pytest.FixtureRequest
) -> None:
    """A plan made for an empty table, or for ten ids, is cached: it must suit many rows and ids."""
    with request.getfixturevalue(rows).connect() as connection:
        lines = connection.exec_driver_sql(_generic(SENT[name][0])).scalars().all()
    plan = "\n".join(lines)
    assert "Seq Scan on tasks" not in plan, plan
    assert "Join Filter" not in plan, plan
