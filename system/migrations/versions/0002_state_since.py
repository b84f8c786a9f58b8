"""Since when a task is in its present state: what it waited for can be told afterwards.

The default lets processes of the release before go on storing tasks while the new one comes up.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("state_since", postgresql.TIMESTAMP(timezone=True)))
    op.execute("UPDATE tasks SET state_since = COALESCE(finished_at, claimed_at, created_at)")
    op.alter_column(
        "tasks", "state_since", nullable=False, server_default=sa.text("clock_timestamp()")
    )


def downgrade() -> None:
    op.drop_column("tasks", "state_since")
