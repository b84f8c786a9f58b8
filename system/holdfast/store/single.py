"""The SQL of transitions of a single task, where a batch of one costs four times as much.

The rules of ``transitions.py`` apply. Two things make the difference: with scalars Postgres reuses
the plan of a prepared statement (an array's length is unknown, so it plans a batch anew each time,
which costs more than to execute it), and what happens rarely is left to the batch's statement. No
row is the answer of a statement that was resent, or found no task: the caller then sends the
batch's statement, which settles it. A stale write is recorded at once: a worker that learns of its
death would not send another statement.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import text

from holdfast.model.claim import Success
from holdfast.model.lifecycle import Reason, State
from holdfast.store.transitions import EVENT_COLUMNS, LEAVE_RUNNING, ended_before

FINISH_ONE = text(f"""
WITH locked AS MATERIALIZED (
  SELECT t.id, t.state, t.epoch, t.seq, t.released_by
  FROM holdfast.tasks t WHERE t.id = CAST(:id AS uuid)
  FOR NO KEY UPDATE),
eligible AS (
  SELECT locked.id, locked.epoch, locked.seq FROM locked
  WHERE locked.state = '{State.RUNNING}' AND locked.epoch = CAST(:epoch AS int)),
updated AS (
  UPDATE holdfast.tasks t SET state = '{State.SUCCEEDED}', {LEAVE_RUNNING},
    released_by = CAST(:worker AS uuid), finished_at = clock_timestamp()
  FROM eligible WHERE t.id = eligible.id
  RETURNING t.id, t.state, t.epoch, t.attempt, t.seq, t.finished_at),
effect_rows AS (
  INSERT INTO holdfast.effects (effect_key, task_id, epoch, attempt, at, result)
  SELECT id, id, epoch, attempt, finished_at, CAST(CAST(:result AS text) AS jsonb) FROM updated),
event_rows AS (
  INSERT INTO holdfast.task_events ({EVENT_COLUMNS})
  SELECT id, seq, finished_at, '{State.RUNNING}', state, epoch, attempt, CAST(:actor AS text),
         '{Reason.SUCCEEDED}', NULL FROM updated),
stale AS (
  INSERT INTO holdfast.stale_writes (task_id, at, worker_id, epoch, outcome, state_found,
    epoch_found)
  SELECT id, clock_timestamp(), CAST(:worker AS uuid), CAST(:epoch AS int), '{Reason.SUCCEEDED}',
    state, epoch
  FROM locked WHERE NOT EXISTS (SELECT FROM updated) AND NOT COALESCE(
    locked.epoch = CAST(:epoch AS int) + 1 AND locked.released_by = CAST(:worker AS uuid), false)
    AND {ended_before("CAST(:epoch AS int)")} IS NULL
  RETURNING task_id, state_found, epoch_found)
SELECT id AS task_id, true AS made, true AS done, state, epoch FROM updated
UNION ALL
SELECT task_id, false, false, state_found, epoch_found FROM stale""")


def finish_one(success: Success, worker_id: UUID, actor: str) -> dict[str, Any]:
    """Return the parameters of FINISH_ONE."""
    return {
        "id": success.task_id,
        "epoch": success.epoch,
        "result": success.result,
        "worker": worker_id,
        "actor": actor,
    }
