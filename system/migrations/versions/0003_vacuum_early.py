"""Vacuum comes early, however large the tables are.

By default it waits until a fifth of a table is dead: two million rows beside ten million, which
every look into the small partial indexes of what is due would have to pass.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

_TABLES = ("tasks", "task_events", "effects")


def upgrade() -> None:
    for table in _TABLES:
        op.execute(
            f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.01, "
            "autovacuum_vacuum_threshold = 10000)"
        )


def downgrade() -> None:
    for table in _TABLES:
        op.execute(
            f"ALTER TABLE {table} "
            "RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold)"
        )
