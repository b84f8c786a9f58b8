"""The SQL of every transition by id: one statement moves any number of tasks.

Rules, learned from model checking and on real Postgres (``scans.py`` has the scans):

- ``locked`` locks the rows by id, in id order, without filtering by state or epoch: a row that
  starts to match while the statement waits for its lock would not be found. The guards follow in
  ``eligible`` and read ``locked``, which holds the row version under the lock. Only scans filter by
  state and skip locked rows.
- ``LATERAL`` reads one row at a time by the primary key, regardless of estimates. The planner
  cannot know the number of ids (it assumes ten), and joined ``locked`` with ``input`` by a nested
  loop: a third of the time of a finish of 84 tasks, more than half of one of 200.
- ``clock_timestamp()`` everywhere. ``(SELECT clock_timestamp())`` is evaluated once, before any
  lock wait; it is used only where a scan needs an index condition.
- An UPDATE sets every column that a CHECK reads, from ``locked``: Postgres first checks the new row
  as built from the snapshot's version, and only then notices a newer version (a cancel that had
  waited for a claim was refused by a CHECK that its current row would have passed).
- ``state_since`` is set by every change of state and by nothing else.
- The event is inserted from the UPDATE's RETURNING, so no transition exists without its event.
- Parameters are arrays (``unnest``): one text serves any number of tasks.
- ``requests`` is read for the rows of an answer, after the transition, one by one: a join could
  scan the table (``OFFSET 0`` keeps the planner from making one of a LATERAL).

The CTEs: ``input`` (parameters as rows), ``locked``, ``eligible`` (passed the guards), ``updated``,
``event_rows``, ``effect_rows`` (the ledger), ``stale`` (refused writes, recorded).
"""

from __future__ import annotations

from sqlalchemy import text

from holdfast.model.lifecycle import Reason, State

# Of ``tasks`` joined with ``requests``.
WITHOUT_PAYLOAD = """id, key_namespace, queue, priority, name, idempotency_key, traceparent,
  run_at, due_at, state, epoch, seq, attempt, losses, handed_back, max_attempts, max_losses,
  timeout_seconds, cancel_requested, worker_id, claimed_at, created_at, finished_at"""
# As bytes: a str of a payload with one emoji takes four times as much memory.
PAYLOAD = "convert_to(payload::text, 'UTF8')"
TASK_COLUMNS = f"{WITHOUT_PAYLOAD}, {PAYLOAD} AS payload"

EVENT_COLUMNS = "task_id, seq, at, from_state, to_state, epoch, attempt, actor, reason, detail"

# Read by the guards of release, cancel and retry.
_COUNTERS = """t.id, t.state, t.epoch, t.seq, t.attempt, t.losses, t.handed_back, t.unhandled,
    t.max_attempts, t.max_losses, t.cancel_requested, t.worker_id, t.claim_token, t.released_by,
    t.due_at, t.queue"""


def traceparent_of(row: str) -> str:
    """Return the SQL that reads the traceparent of the task whose id is in ``row``."""
    return f"""(SELECT r.traceparent FROM holdfast.requests r WHERE r.id = {row}.id)
    AS traceparent"""


# Read by the guard of finish.
_FENCE = "t.id, t.state, t.epoch, t.seq, t.released_by"


def _lock(columns: str, sent: str = "") -> str:
    """Return the CTE that locks the rows of ``input`` in order; ``sent``: its columns to keep."""
    return f"""locked AS MATERIALIZED (
  SELECT t.*{sent} FROM input, LATERAL (
    SELECT {columns} FROM holdfast.tasks t WHERE t.id = input.id FOR NO KEY UPDATE) t)"""


# Set by every statement that ends an attempt.
LEAVE_RUNNING = """epoch = eligible.epoch + 1, seq = eligible.seq + 1, worker_id = NULL,
  claim_token = NULL, claimed_at = NULL, state_since = clock_timestamp()"""


# The condition ``lifecycle.Counters.quarantined`` for a row.
def _quarantined(row: str) -> str:
    return f"{row}.losses > 0 AND {row}.losses + 1 >= {row}.max_losses"


# When a RUNNING task had become QUEUED. Its row no longer has this; only a resent claim needs it.
_QUEUED_AT = f"""(SELECT max(d.at) FROM holdfast.task_events d
    WHERE d.task_id = t.id AND d.reason = '{Reason.DISPATCHED}')"""

# The columns of a grant, and those that order grants.
_GRANTED = """t.id, t.epoch, t.attempt, t.seq, t.name, t.queue, t.priority, t.due_at,
  t.max_attempts, t.losses, t.max_losses, t.handed_back, t.unhandled, t.timeout_seconds,
  t.claimed_at"""

# A reply of this size needs several times as much memory, in Postgres and in the worker.
CLAIM_BYTES_MAX = 8 << 20
_CLAIMABLE = f"{_GRANTED}, t.state, t.claim_token, t.state_since, t.payload_bytes"

# A quarantined task is granted only if nothing else runs in the worker: it must rank first (other
# tasks rank before it), the worker must report that it is idle (``exclusive``), and the database
# must agree. While such a task runs, nothing else is granted. ``CASE`` evaluates the first subquery
# only for such a task; the second is one lookup in a nearly empty index.
# The second branch of ``answer`` changes nothing and returns the grant again: a claim of unknown
# outcome is resent under the same token. Such grants, too, count towards the bytes of a reply; a
# task that does not fit stays QUEUED, unless it is alone in the reply.
CLAIM = text(f"""
WITH input AS MATERIALIZED (
  SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:epochs AS int[])) AS item(id, epoch)
  ORDER BY id),
{_lock(_CLAIMABLE, ", input.epoch AS sent")},
eligible AS MATERIALIZED (
  SELECT locked.id, locked.epoch, locked.attempt, locked.seq, locked.state_since,
    locked.payload_bytes, {_quarantined("locked")} AS quarantined,
    row_number() OVER ranked AS place,
    sum(locked.payload_bytes) OVER (ranked ROWS UNBOUNDED PRECEDING) + (
      SELECT COALESCE(sum(payload_bytes), 0) FROM locked
      WHERE state = '{State.RUNNING}' AND claim_token = CAST(:token AS uuid)) AS bytes
  FROM locked WHERE locked.state = '{State.QUEUED}' AND locked.epoch = locked.sent
  WINDOW ranked AS (
    ORDER BY {_quarantined("locked")}, locked.priority DESC, locked.due_at, locked.id)),
granted AS MATERIALIZED (
  SELECT * FROM eligible
  WHERE CASE WHEN quarantined
    THEN CAST(:exclusive AS bool) AND place = 1 AND NOT EXISTS (
      SELECT FROM holdfast.tasks r WHERE r.worker_id = CAST(:worker AS uuid)
        AND r.state = '{State.RUNNING}')
    ELSE NOT EXISTS (
      SELECT FROM holdfast.tasks r WHERE r.worker_id = CAST(:worker AS uuid)
        AND r.state = '{State.RUNNING}'
        AND {_quarantined("r")}) END
    AND (bytes <= CAST(:bytes AS bigint) OR bytes = payload_bytes)),
updated AS (
  UPDATE holdfast.tasks t SET state = '{State.RUNNING}', epoch = granted.epoch + 1,
    attempt = granted.attempt + 1, seq = granted.seq + 1, worker_id = CAST(:worker AS uuid),
    claim_token = CAST(:token AS uuid),
    claimed_at = clock_timestamp(), state_since = clock_timestamp(), hint_deadline = NULL,
    finished_at = NULL
  FROM granted WHERE t.id = granted.id
  RETURNING {_GRANTED}, granted.state_since AS queued_at),
event_rows AS (
  INSERT INTO holdfast.task_events ({EVENT_COLUMNS})
  SELECT id, seq, claimed_at, '{State.QUEUED}', '{State.RUNNING}', epoch, attempt,
         CAST(:actor AS text), '{Reason.CLAIMED}', NULL FROM updated),
answer AS (
  SELECT *, true AS granted, false AS again FROM updated
  UNION ALL
  SELECT {_GRANTED}, {_QUEUED_AT}, true, true
  FROM locked AS t WHERE t.state = '{State.RUNNING}' AND t.claim_token = CAST(:token AS uuid)
  UNION ALL
  SELECT {_GRANTED}, t.state_since, false, false
  FROM locked AS t WHERE t.id IN (SELECT id FROM eligible EXCEPT SELECT id FROM granted))
SELECT granted, again, id AS task_id, epoch, attempt, name, queue,
  request.payload, max_attempts,
  attempt - losses - handed_back AS failures, unhandled, timeout_seconds,
  request.traceparent, claimed_at, queued_at,
  EXTRACT(EPOCH FROM claimed_at - due_at)::float8 AS waited_seconds,
  EXTRACT(EPOCH FROM claimed_at - request.first_due)::float8 AS age_seconds,
  EXTRACT(EPOCH FROM clock_timestamp() - claimed_at)::float8 AS running_seconds,
  {_quarantined("answer")} AS quarantined
FROM answer CROSS JOIN LATERAL (
  SELECT CASE WHEN granted THEN {PAYLOAD} END AS payload, traceparent,
    GREATEST(run_at, created_at) AS first_due
  FROM holdfast.requests r WHERE r.id = answer.id OFFSET 0) request
ORDER BY priority DESC, due_at, id""")

HEARTBEAT = text(f"""
WITH renewed AS (
  UPDATE holdfast.workers SET lease_expires_at =
    clock_timestamp() + make_interval(secs => CAST(:lease AS float8)),
    begun_until = CAST(:begun_until AS timestamptz)
  WHERE id = CAST(:worker AS uuid) AND dead_at IS NULL RETURNING id)
SELECT t.id AS task_id, t.epoch, t.cancel_requested, t.attempt, t.name, t.queue,
  {traceparent_of("t")}, t.claimed_at
FROM renewed LEFT JOIN holdfast.tasks t ON t.worker_id = renewed.id AND t.state = '{State.RUNNING}'
ORDER BY t.id""")


def ended_before(epoch: str) -> str:
    """Return the SQL that reads to which state this worker ended an attempt of ``locked``, if so.

    The task may have moved on since: its row has another state, and another epoch once claimed.
    """
    return f"""(SELECT e.to_state FROM holdfast.task_events e
      WHERE e.task_id = locked.id AND e.epoch = {epoch} + 1 AND e.from_state = '{State.RUNNING}'
        AND e.actor = CAST(:actor AS text))"""


# The end of an attempt, possibly resent: accepted if the epoch matches, or if this worker already
# ended this attempt. Anything else is a stale write: refused and recorded. The event of an end that
# was committed after this statement had begun is not visible to it: ``released_by`` is, in the row
# version under the lock.
_ANSWER = f"""
settled AS (
  SELECT id, epoch - 1 AS sent, outcome, state, epoch, true AS made, true AS done FROM updated
  UNION ALL
  SELECT id, sent, outcome, COALESCE(before, state),
    CASE WHEN before IS NULL THEN epoch ELSE sent + 1 END, false, before IS NOT NULL
    OR COALESCE(epoch = sent + 1 AND released_by = CAST(:worker AS uuid), false)
  FROM (SELECT input.id, input.epoch AS sent, input.outcome, locked.state, locked.epoch,
      locked.released_by, {ended_before("input.epoch")} AS before
    FROM input LEFT JOIN locked ON locked.id = input.id
    WHERE input.id NOT IN (SELECT id FROM updated)) rest),
stale AS (
  INSERT INTO holdfast.stale_writes (task_id, at, worker_id, epoch, outcome, state_found,
    epoch_found)
  SELECT id, clock_timestamp(), CAST(:worker AS uuid), sent, outcome, state, epoch
  FROM settled WHERE NOT done)
SELECT id AS task_id, made, done, state, epoch FROM settled"""

FINISH = text(f"""
WITH input AS MATERIALIZED (
  SELECT item.*, '{Reason.SUCCEEDED}' AS outcome FROM unnest(
    CAST(:ids AS uuid[]), CAST(:epochs AS int[]), CAST(:results AS text[])
  ) AS item(id, epoch, result) ORDER BY id),
{_lock(_FENCE, ", input.epoch AS sent, input.outcome, input.result")},
eligible AS (
  SELECT locked.id, locked.epoch, locked.seq, locked.outcome, locked.result FROM locked
  WHERE locked.state = '{State.RUNNING}' AND locked.epoch = locked.sent),
updated AS (
  UPDATE holdfast.tasks t SET state = '{State.SUCCEEDED}', {LEAVE_RUNNING},
    released_by = CAST(:worker AS uuid), finished_at = clock_timestamp()
  FROM eligible WHERE t.id = eligible.id
  RETURNING t.id, t.state, t.epoch, t.attempt, t.seq, t.finished_at, eligible.outcome,
    eligible.result),
effect_rows AS (
  INSERT INTO holdfast.effects (effect_key, task_id, epoch, attempt, at, result)
  SELECT id, id, epoch, attempt, finished_at, CAST(result AS jsonb) FROM updated ORDER BY id),
event_rows AS (
  INSERT INTO holdfast.task_events ({EVENT_COLUMNS})
  SELECT id, seq, finished_at, '{State.RUNNING}', state, epoch, attempt, CAST(:actor AS text),
         '{Reason.SUCCEEDED}', NULL FROM updated),
{_ANSWER}""")

RELEASE = text(f"""
WITH input AS MATERIALIZED (
  SELECT * FROM unnest(
    CAST(:ids AS uuid[]), CAST(:epochs AS int[]), CAST(:reasons AS text[]),
    CAST(:delays AS float8[]), CAST(:details AS text[]), CAST(:unhandled AS bool[])
  ) AS item(id, epoch, outcome, delay, detail, no_handler) ORDER BY id),
{_lock(_COUNTERS, ", input.epoch AS sent, input.outcome, input.delay, input.detail, no_handler")},
eligible AS (
  SELECT locked.id, locked.epoch, locked.seq, locked.due_at, locked.outcome, locked.delay,
    locked.detail,
    locked.handed_back + (locked.outcome = '{Reason.RELEASED}')::int AS handed_back,
    locked.unhandled + no_handler::int AS unhandled,
    CASE WHEN locked.cancel_requested THEN '{State.CANCELLED}'
         WHEN locked.outcome = '{Reason.RELEASED}' THEN '{State.SCHEDULED}'
         WHEN locked.outcome = '{Reason.DISCARDED}' THEN '{State.FAILED}'
         WHEN locked.attempt - locked.losses - locked.handed_back >= locked.max_attempts
           THEN '{State.FAILED}'
         ELSE '{State.SCHEDULED}' END AS next
  FROM locked WHERE locked.state = '{State.RUNNING}' AND locked.epoch = locked.sent),
updated AS (
  UPDATE holdfast.tasks t SET state = eligible.next, {LEAVE_RUNNING},
    released_by = CAST(:worker AS uuid),
    handed_back = eligible.handed_back, unhandled = eligible.unhandled,
    due_at = CASE WHEN eligible.next = '{State.SCHEDULED}'
      THEN clock_timestamp() + make_interval(secs => eligible.delay) ELSE eligible.due_at END,
    finished_at = CASE WHEN eligible.next <> '{State.SCHEDULED}' THEN clock_timestamp() END
  FROM eligible WHERE t.id = eligible.id
  RETURNING t.id, t.state, t.epoch, t.attempt, t.seq, eligible.outcome, eligible.detail),
event_rows AS (
  INSERT INTO holdfast.task_events ({EVENT_COLUMNS})
  SELECT id, seq, clock_timestamp(), '{State.RUNNING}', state, epoch, attempt,
         CAST(:actor AS text), outcome, CAST(detail AS jsonb) FROM updated),
{_ANSWER}""")

RETIRE = text("""
UPDATE holdfast.workers SET dead_at = clock_timestamp(), dead_reason = 'stopped',
  begun_until = CAST(:begun_until AS timestamptz)
WHERE id = CAST(:worker AS uuid) AND dead_at IS NULL RETURNING id""")

# Redis did not take the hints that REPUBLISH returned. A new deadline is never later than the one
# in force: the task may have been republished, or claimed and dispatched again, meanwhile.
RESTART_HINT_DEADLINES = text(f"""
WITH input AS MATERIALIZED (SELECT * FROM unnest(CAST(:ids AS uuid[])) AS item(id) ORDER BY id),
{_lock("t.id, t.state, t.hint_deadline")}
UPDATE holdfast.tasks t SET publishes = 0, hint_deadline = LEAST(locked.hint_deadline,
  clock_timestamp() + make_interval(secs => CAST(:deadline AS float8)))
FROM locked WHERE t.id = locked.id AND t.id = ANY(ARRAY(SELECT id FROM locked))
  AND locked.state = '{State.QUEUED}' RETURNING t.id""")

CANCEL = text(f"""
WITH input AS MATERIALIZED (SELECT * FROM unnest(CAST(:ids AS uuid[])) AS item(id) ORDER BY id),
{_lock(_COUNTERS)},
eligible AS (
  SELECT locked.id, locked.seq, locked.state, locked.epoch, locked.worker_id, locked.claim_token,
    CASE locked.state WHEN '{State.RUNNING}' THEN '{State.RUNNING}'
                      ELSE '{State.CANCELLED}' END AS next
  FROM locked WHERE locked.state IN ('{State.SCHEDULED}', '{State.QUEUED}')
    OR (locked.state = '{State.RUNNING}' AND NOT locked.cancel_requested)),
updated AS (
  UPDATE holdfast.tasks t SET state = eligible.next, epoch = eligible.epoch,
    worker_id = eligible.worker_id,
    claim_token = eligible.claim_token, seq = eligible.seq + 1, cancel_requested = true,
    hint_deadline = NULL,
    state_since = CASE WHEN eligible.next = '{State.CANCELLED}' THEN clock_timestamp()
                       ELSE t.state_since END,
    finished_at = CASE WHEN eligible.next = '{State.CANCELLED}' THEN clock_timestamp() END
  FROM eligible WHERE t.id = eligible.id
  RETURNING t.id, t.state, t.epoch, t.attempt, t.seq, eligible.state AS found),
event_rows AS (
  INSERT INTO holdfast.task_events ({EVENT_COLUMNS})
  SELECT id, seq, clock_timestamp(), found, state, epoch, attempt, CAST(:actor AS text),
    CASE state WHEN '{State.RUNNING}' THEN '{Reason.CANCEL_REQUESTED}'
               ELSE '{Reason.CANCELLED}' END,
    NULL FROM updated)
SELECT input.id AS task_id, COALESCE(updated.state, locked.state) AS state,
  COALESCE(updated.epoch, locked.epoch) AS epoch, locked.state AS found, locked.attempt,
  locked.queue, {traceparent_of("input")}, updated.id IS NOT NULL AS made,
  updated.id IS NOT NULL OR COALESCE(
    locked.state = '{State.CANCELLED}' OR locked.state = '{State.RUNNING}', false) AS done
FROM input LEFT JOIN locked ON locked.id = input.id LEFT JOIN updated ON updated.id = input.id""")

# Allow a dead letter at least one more attempt and one more loss; keep its counters.
RETRY = text(f"""
WITH input AS MATERIALIZED (SELECT * FROM unnest(CAST(:ids AS uuid[])) AS item(id) ORDER BY id),
{_lock(_COUNTERS)},
updated AS (
  UPDATE holdfast.tasks t SET state = '{State.SCHEDULED}', epoch = locked.epoch, worker_id = NULL,
    claim_token = NULL, seq = locked.seq + 1, finished_at = NULL, state_since = clock_timestamp(),
    due_at = clock_timestamp(), cancel_requested = false,
    max_attempts = GREATEST(
      locked.max_attempts, locked.attempt - locked.losses - locked.handed_back + 1),
    max_losses = GREATEST(locked.max_losses, locked.losses + 1)
  FROM locked WHERE t.id = locked.id AND locked.state = '{State.FAILED}'
  RETURNING t.id, t.state, t.epoch, t.attempt, t.seq),
event_rows AS (
  INSERT INTO holdfast.task_events ({EVENT_COLUMNS})
  SELECT id, seq, clock_timestamp(), '{State.FAILED}', state, epoch, attempt,
         CAST(:actor AS text), '{Reason.RETRIED}', NULL FROM updated)
SELECT input.id AS task_id, COALESCE(updated.state, locked.state) AS state,
  COALESCE(updated.epoch, locked.epoch) AS epoch, locked.state AS found, locked.attempt,
  locked.queue, {traceparent_of("input")}, updated.id IS NOT NULL AS made,
  updated.id IS NOT NULL AS done
FROM input LEFT JOIN locked ON locked.id = input.id LEFT JOIN updated ON updated.id = input.id""")

REGISTER = text("""
WITH worker_row AS (
  INSERT INTO holdfast.workers (id, label, queues, started_at, lease_expires_at)
  VALUES (CAST(:worker AS uuid), CAST(:label AS text), CAST(:queues AS text[]), clock_timestamp(),
          clock_timestamp() + make_interval(secs => CAST(:lease AS float8)))
  ON CONFLICT (id) DO NOTHING),
name_rows AS (
  INSERT INTO holdfast.task_names AS t (name, max_attempts, timeout_seconds, announced_at)
  SELECT u.*, clock_timestamp() FROM unnest(
    CAST(:names AS text[]), CAST(:max_attempts AS int[]), CAST(:timeouts AS float8[])
  ) AS u(name, max_attempts, timeout_seconds) ORDER BY name
  ON CONFLICT (name) DO UPDATE SET max_attempts = EXCLUDED.max_attempts,
    timeout_seconds = EXCLUDED.timeout_seconds, announced_at = EXCLUDED.announced_at),
queue_rows AS (
  INSERT INTO holdfast.queue_names (name, announced_at)
  SELECT DISTINCT queue, clock_timestamp() FROM unnest(CAST(:queues AS text[])) AS u(queue)
  ORDER BY queue ON CONFLICT (name) DO NOTHING)
SELECT clock_timestamp()""")

ANNOUNCED = text("SELECT name FROM holdfast.task_names ORDER BY name")

KNOWN_QUEUES = text("SELECT name FROM holdfast.queue_names ORDER BY name")

# For queues that a setting names: a worker announces its own when it registers.
ANNOUNCE_QUEUES = text("""
INSERT INTO holdfast.queue_names (name, announced_at)
SELECT DISTINCT queue, clock_timestamp() FROM unnest(CAST(:queues AS text[])) AS u(queue)
ORDER BY queue ON CONFLICT (name) DO NOTHING RETURNING name""")

STORY = text(f"""
SELECT {TASK_COLUMNS},
  (SELECT jsonb_agg(to_jsonb(e) - 'later' ORDER BY e.seq) FROM (
    SELECT *, COALESCE(sum(octet_length(detail::text)) OVER (
      ORDER BY seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS later
    FROM holdfast.task_events WHERE task_id = t.id
    ORDER BY seq DESC LIMIT CAST(:events_max AS int)) e
    WHERE later < CAST(:bytes AS bigint)) AS events,
  (SELECT to_jsonb(f) - 'result' FROM holdfast.effects f WHERE f.effect_key = t.id) AS effect,
  (SELECT convert_to(f.result::text, 'UTF8') FROM holdfast.effects f
    WHERE f.effect_key = t.id) AS result
FROM holdfast.tasks t JOIN holdfast.requests USING (id) WHERE t.id = CAST(:id AS uuid)""")

# One row without an event if the task has none after ``after``; no row if there is no such task.
# Events after the first ``n``, or after details of ``bytes``, are not ``within``: without details.
EVENTS = text(f"""
SELECT e.task_id, e.seq, e.at, e.from_state, e.to_state, e.epoch, e.attempt, e.actor, e.reason,
  e.within, CASE WHEN e.within THEN e.detail END AS detail
FROM holdfast.tasks t LEFT JOIN LATERAL (
  SELECT {EVENT_COLUMNS}, row_number() OVER page <= CAST(:n AS int)
    AND COALESCE(sum(octet_length(detail::text)) OVER (
      page ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < CAST(:bytes AS bigint) AS within
  FROM holdfast.task_events WHERE task_id = t.id AND seq > CAST(:after AS int)
  WINDOW page AS (ORDER BY seq) ORDER BY seq LIMIT CAST(:n AS int) + 1) e ON true
WHERE t.id = CAST(:id AS uuid) ORDER BY e.seq""")

CLOCK = text("SELECT clock_timestamp()")
