"""Create the tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

# Vacuum at 1 % dead rows: with the default of 20 %, ten million rows would carry two million dead
# ones, which every scan of the small partial indexes would have to skip.
_VACUUM = {"autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 10000}


def upgrade() -> None:
    _create_effects()
    _create_queue_names()
    _create_requests()
    _create_stale_writes()
    _create_task_events()
    _create_task_names()
    _create_tasks()
    _create_workers()


def downgrade() -> None:
    op.drop_table("task_names")
    op.drop_table("workers")
    op.drop_table("stale_writes")
    op.drop_table("requests")
    op.drop_table("queue_names")
    op.drop_table("effects")
    op.drop_table("task_events")
    op.drop_table("tasks")


def _create_effects() -> None:
    op.create_table(
        "effects",
        sa.Column("effect_key", sa.UUID(), nullable=False),
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("result", postgresql.JSONB(), nullable=True),
        sa.PrimaryKeyConstraint("effect_key"),
        postgresql_with=_VACUUM,
    )


def _create_queue_names() -> None:
    op.create_table(
        "queue_names",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("announced_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def _create_requests() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("key_namespace", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("payload", postgresql.JSONB(), nullable=False),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("run_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "requests_idempotency_key",
        "requests",
        ["key_namespace", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )


def _create_stale_writes() -> None:
    op.create_table(
        "stale_writes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("worker_id", sa.UUID(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("state_found", sa.Text(), nullable=True),
        sa.Column("epoch_found", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )


def _create_task_events() -> None:
    op.create_table(
        "task_events",
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("from_state", sa.Text(), nullable=True),
        sa.Column("to_state", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(), nullable=True),
        sa.PrimaryKeyConstraint("task_id", "seq"),
        postgresql_with=_VACUUM,
    )


def _create_task_names() -> None:
    op.create_table(
        "task_names",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=True),
        sa.Column("timeout_seconds", sa.Double(), nullable=True),
        sa.Column("announced_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("due_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("handed_back", sa.Integer(), nullable=False),
        sa.Column("unhandled", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("max_losses", sa.Integer(), nullable=False),
        sa.Column("timeout_seconds", sa.Double(), nullable=False),
        sa.Column("payload_bytes", sa.Integer(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("worker_id", sa.UUID(), nullable=True),
        sa.Column("claim_token", sa.UUID(), nullable=True),
        sa.Column("claimed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("released_by", sa.UUID(), nullable=True),
        sa.Column("hint_deadline", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("publishes", sa.Integer(), nullable=False),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("state_since", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(claim_token IS NOT NULL) = (state = 'RUNNING')", name="tasks_claim_token"
        ),
        sa.CheckConstraint(
            "(epoch % 2 = 1) = (state = 'RUNNING')", name="tasks_odd_epoch_is_owned"
        ),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('SUCCEEDED','FAILED','CANCELLED'))",
            name="tasks_finished",
        ),
        sa.CheckConstraint("(worker_id IS NOT NULL) = (state = 'RUNNING')", name="tasks_worker"),
        sa.CheckConstraint(
            "state IN ('SCHEDULED','QUEUED','RUNNING','SUCCEEDED','FAILED','CANCELLED')",
            name="tasks_state",
        ),
        sa.CheckConstraint("unhandled BETWEEN 0 AND handed_back", name="tasks_unhandled"),
        sa.PrimaryKeyConstraint("id"),
        postgresql_with=_VACUUM,
    )
    _index_tasks()


def _index_tasks() -> None:
    op.create_index(
        "tasks_due",
        "tasks",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("state = 'SCHEDULED'"),
    )
    op.create_index(
        "tasks_failed", "tasks", ["id"], unique=False, postgresql_where=sa.text("state = 'FAILED'")
    )
    op.create_index(
        "tasks_quarantined",
        "tasks",
        ["worker_id"],
        unique=False,
        postgresql_where=sa.text("state = 'RUNNING' AND losses > 0 AND losses + 1 >= max_losses"),
    )
    op.create_index(
        "tasks_queued",
        "tasks",
        ["queue", "hint_deadline"],
        unique=False,
        postgresql_where=sa.text("state = 'QUEUED'"),
    )
    op.create_index(
        "tasks_running",
        "tasks",
        ["worker_id"],
        unique=False,
        postgresql_where=sa.text("state = 'RUNNING'"),
    )
    op.create_index(
        "tasks_scheduled",
        "tasks",
        ["queue", "priority", "due_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'SCHEDULED'"),
    )


def _create_workers() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("queues", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("lease_expires_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("begun_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("dead_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("dead_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "workers_alive",
        "workers",
        ["lease_expires_at"],
        unique=False,
        postgresql_where=sa.text("dead_at IS NULL"),
    )
