"""The SQL of a session that locks rows of tasks, as one that a person forgot to commit."""

from __future__ import annotations

from holdfast.model.lifecycle import State

# Whatever the database's defaults are (``topology.environment``).
BEGIN_LOCKING = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = 0;"
    " SET LOCAL idle_in_transaction_session_timeout = 0"
)
# Rows that others have locked are left out, so that it never waits itself.
LOCK_QUEUED = (
    f"SELECT id FROM holdfast.tasks WHERE state = '{State.QUEUED}'"  # noqa: S608
    " FOR UPDATE SKIP LOCKED"
)
