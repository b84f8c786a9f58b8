"""The tables as SQLAlchemy metadata; ``migrations/`` creates the same (a test compares them).

A task is one row of ``requests``, what the client said, written once, and one of ``tasks``, what
moves. Each transition writes a new version of the latter, so it is narrow: with the payload in it,
the write-ahead log of a task doubled at 1 kB. There are no foreign keys and few indexes: each makes
every transition of every task more expensive.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP, UUID

metadata = MetaData()
_INSTANT = TIMESTAMP(timezone=True)
# Every task leaves dead rows behind; by default, vacuum waits until 20 % of the table is dead.
_VACUUM = {"autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 10000}

requests = Table(
    "requests",
    metadata,
    Column("id", UUID, primary_key=True),  # the task's
    Column("key_namespace", Text, nullable=False),
    Column("idempotency_key", Text),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("traceparent", Text),
    Column("run_at", _INSTANT, nullable=False),
    Column("created_at", _INSTANT, nullable=False),
    Index(
        "requests_idempotency_key",
        "key_namespace",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", UUID, primary_key=True),
    # As requested, but here, because scans and listings look for them.
    Column("queue", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("due_at", _INSTANT, nullable=False),
    Column("state", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("handed_back", Integer, nullable=False),
    # Those of handed_back whose worker had no handler; each makes the next rest longer.
    Column("unhandled", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("max_losses", Integer, nullable=False),
    Column("timeout_seconds", Double, nullable=False),
    # Size of the payload as text, which bounds a claim; jsonb has another size.
    Column("payload_bytes", Integer, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    # The owner; set only while RUNNING.
    Column("worker_id", UUID),
    Column("claim_token", UUID),
    Column("claimed_at", _INSTANT),
    # The worker that ended its last attempt itself; identifies a finish that is sent again.
    Column("released_by", UUID),
    # Hints; hint_deadline is set only while QUEUED.
    Column("hint_deadline", _INSTANT),
    Column("publishes", Integer, nullable=False),
    Column("finished_at", _INSTANT),
    Column("state_since", _INSTANT, nullable=False),
    CheckConstraint(
        "state IN ('SCHEDULED','QUEUED','RUNNING','SUCCEEDED','FAILED','CANCELLED')",
        name="tasks_state",
    ),
    CheckConstraint("(epoch % 2 = 1) = (state = 'RUNNING')", name="tasks_odd_epoch_is_owned"),
    CheckConstraint("(worker_id IS NOT NULL) = (state = 'RUNNING')", name="tasks_worker"),
    CheckConstraint("(claim_token IS NOT NULL) = (state = 'RUNNING')", name="tasks_claim_token"),
    CheckConstraint(
        "(finished_at IS NOT NULL) = (state IN ('SUCCEEDED','FAILED','CANCELLED'))",
        name="tasks_finished",
    ),
    CheckConstraint("unhandled BETWEEN 0 AND handed_back", name="tasks_unhandled"),
    Index(
        "tasks_scheduled",
        "queue",
        "priority",
        "due_at",
        "id",
        postgresql_where=text("state = 'SCHEDULED'"),
    ),
    # Finds the queues with due tasks without a visit to the queues that have only future ones.
    Index("tasks_due", "due_at", postgresql_where=text("state = 'SCHEDULED'")),
    Index("tasks_queued", "queue", "hint_deadline", postgresql_where=text("state = 'QUEUED'")),
    Index("tasks_running", "worker_id", postgresql_where=text("state = 'RUNNING'")),
    # Has at most one row per worker; every claim looks it up.
    Index(
        "tasks_quarantined",
        "worker_id",
        postgresql_where=text("state = 'RUNNING' AND losses > 0 AND losses + 1 >= max_losses"),
    ),
    Index("tasks_failed", "id", postgresql_where=text("state = 'FAILED'")),
    postgresql_with=_VACUUM,
)

task_events = Table(
    "task_events",
    metadata,
    Column("task_id", UUID, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("at", _INSTANT, nullable=False),
    Column("from_state", Text),
    Column("to_state", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", JSONB),
    postgresql_with=_VACUUM,
)

# The ledger: one row per effect. effect_key is the task's id, never the attempt.
effects = Table(
    "effects",
    metadata,
    Column("effect_key", UUID, primary_key=True),
    Column("task_id", UUID, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", _INSTANT, nullable=False),
    Column("result", JSONB),
    postgresql_with=_VACUUM,
)

# Writes refused by the fence.
stale_writes = Table(
    "stale_writes",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("task_id", UUID, nullable=False),
    Column("at", _INSTANT, nullable=False),
    Column("worker_id", UUID, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("state_found", Text),
    Column("epoch_found", Integer),
)

# One row per incarnation (start of a worker process); ids are never reused.
workers = Table(
    "workers",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("label", Text, nullable=False),
    Column("queues", ARRAY(Text), nullable=False),
    Column("started_at", _INSTANT, nullable=False),
    Column("lease_expires_at", _INSTANT, nullable=False),
    # As of the last heartbeat: attempts claimed later may not have begun.
    Column("begun_until", _INSTANT),
    Column("dead_at", _INSTANT),
    Column("dead_reason", Text),
    Index("workers_alive", "lease_expires_at", postgresql_where=text("dead_at IS NULL")),
)

# Names that workers can run; the API refuses names that no worker announced.
task_names = Table(
    "task_names",
    metadata,
    Column("name", Text, primary_key=True),
    Column("max_attempts", Integer),
    Column("timeout_seconds", Double),
    Column("announced_at", _INSTANT, nullable=False),
)

# Queues that a worker ever announced, or a setting names; the API refuses tasks for other queues.
# Not read from ``workers``: rows of dead workers are deleted, and a queue stays known.
queue_names = Table(
    "queue_names",
    metadata,
    Column("name", Text, primary_key=True),
    Column("announced_at", _INSTANT, nullable=False),
)
