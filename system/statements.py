"""The SQL of every transition by id: one transition of any number of tasks is one statement.

How each is built (learned by model checking and on real Postgres; ``scans.py`` has the scans):

- ``h`` locks the rows by id, in id order, without looking at state or epoch: a row that starts to
  match while we wait for its lock would not be found. The guards come after and read ``h``, which
  holds the row as it is under the lock. Only scans filter by state, and skip what is locked.
- ``LATERAL``: one row at a time by the primary key, whatever the planner believes. It does not know
  how many ids will come (it guesses ten), and joined ``h`` with what was sent by comparing each
  with each: a third of the time of a finish of 84 tasks, more than half of one of 200.
- ``clock_timestamp()`` everywhere. ``(SELECT clock_timestamp())`` is evaluated once, before any
  lock wait, and stands only where a scan needs an index condition.
- An UPDATE sets every column that a CHECK reads, from ``h``: Postgres first checks the new row as
  made of the snapshot's version, and only then notices that there is a newer one (a cancel that
  had waited for a claim was refused by a CHECK that its real row would have passed).
- ``state_since`` is set by whatever changes the state, and by nothing else.
- The event is inserted from the UPDATE's RETURNING, so there is no transition without its event.
- Parameters are arrays (``unnest``): the same text serves one task and a thousand.
"""

from __future__ import annotations

from sqlalchemy import text

from system.lifecycle import Reason, State

TASK_COLUMNS = """id, tenant, queue, priority, name, payload, idempotency_key, traceparent,
  run_at, due_at, state, epoch, seq, attempt, losses, handed_back, max_attempts, max_losses,
  timeout_seconds, cancel_requested, worker_id, claimed_at, created_at, finished_at"""

EVENT_COLUMNS = "task_id, seq, at, from_state, to_state, epoch, attempt, actor, reason, detail"

# What the guards of an attempt's end, of a cancel and of a retry look at; the payload stays behind.
_COUNTERS = """t.id, t.state, t.epoch, t.seq, t.attempt, t.losses, t.handed_back, t.max_attempts,
    t.max_losses, t.cancel_requested, t.worker_id, t.claim_token, t.released_by, t.due_at,
    t.traceparent, t.queue"""


def _lock(columns: str, sent: str = "") -> str:
    """Locks the rows that ``i`` names, in its order; ``sent``: what of ``i`` goes with each."""
    return f"""h AS MATERIALIZED (
  SELECT t.*{sent} FROM i, LATERAL (
    SELECT {columns} FROM tasks t WHERE t.id = i.id FOR NO KEY UPDATE) t)"""


# Leaving RUNNING; every statement that ends an attempt sets at least this.
LEAVE_RUNNING = """epoch = n.epoch + 1, seq = n.seq + 1, worker_id = NULL, claim_token = NULL,
  claimed_at = NULL, state_since = clock_timestamp()"""

SUBMIT = text(f"""
WITH i AS MATERIALIZED (
  SELECT u.*, clock_timestamp() AS now FROM unnest(
    CAST(:ids AS uuid[]), CAST(:tenants AS text[]), CAST(:queues AS text[]),
    CAST(:priorities AS int[]), CAST(:names AS text[]), CAST(:payloads AS text[]),
    CAST(:keys AS text[]), CAST(:fingerprints AS bytea[]), CAST(:traceparents AS text[]),
    CAST(:run_ats AS timestamptz[]), CAST(:max_attempts AS int[]), CAST(:max_losses AS int[]),
    CAST(:timeouts AS float8[])
  ) AS u(id, tenant, queue, priority, name, payload, idempotency_key, fingerprint, traceparent,
         run_at, max_attempts, max_losses, timeout_seconds)),
t AS (
  INSERT INTO tasks (id, tenant, queue, priority, name, payload, idempotency_key, fingerprint,
    traceparent, run_at, due_at, state, epoch, seq, attempt, losses, handed_back, max_attempts,
    max_losses, timeout_seconds, cancel_requested, publishes, created_at, state_since)
  SELECT id, tenant, queue, priority, name, CAST(payload AS jsonb), idempotency_key, fingerprint,
    traceparent, COALESCE(run_at, now), GREATEST(run_at, now), '{State.SCHEDULED}', 0, 1, 0, 0, 0,
    COALESCE(i.max_attempts, a.max_attempts, CAST(:default_attempts AS int)),
    COALESCE(max_losses, CAST(:default_losses AS int)),
    COALESCE(i.timeout_seconds, a.timeout_seconds, CAST(:default_timeout AS float8)),
    false, 0, now, now
  FROM i LEFT JOIN task_names a USING (name) ORDER BY tenant, idempotency_key, id
  ON CONFLICT DO NOTHING
  RETURNING {TASK_COLUMNS}),
e AS (
  INSERT INTO task_events ({EVENT_COLUMNS})
  SELECT id, seq, created_at, NULL, state, epoch, attempt, CAST(:actor AS text),
         '{Reason.SUBMITTED}', NULL FROM t)
SELECT * FROM t""")

# A second statement on purpose: the first one's snapshot cannot see a concurrent winner.
SUBMITTED_BEFORE = text(f"""
SELECT {TASK_COLUMNS}, fingerprint FROM tasks WHERE id = ANY(CAST(:ids AS uuid[]))
UNION
SELECT {TASK_COLUMNS}, fingerprint FROM tasks WHERE (tenant, idempotency_key) IN (
  SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:keys AS text[])))""")


# Lost before, and one more loss would make it FAILED (``lifecycle.Counters.quarantined``).
def _quarantined(row: str) -> str:
    return f"{row}.losses > 0 AND {row}.losses + 1 >= {row}.max_losses"


# Of a task that is RUNNING: the row has forgotten it, and only a claim sent again asks.
_QUEUED_AT = f"""(SELECT max(d.at) FROM task_events d
    WHERE d.task_id = t.id AND d.reason = '{Reason.DISPATCHED}')"""

# What a grant tells its worker, and what says in which order.
_GRANTED = """t.id, t.epoch, t.attempt, t.seq, t.name, t.queue, t.payload, t.priority, t.run_at,
  t.due_at, t.created_at, t.max_attempts, t.losses, t.max_losses, t.handed_back, t.timeout_seconds,
  t.traceparent, t.claimed_at"""

# A quarantined task is granted only where nothing else is, here or before: it must stand in
# the first place (ordinary ones stand before it), the worker must say that nothing runs there, and
# the database must agree. Beside such a one nothing is granted. ``CASE``: the first question is
# asked only if there is such a task, the second is one look into an index that is nearly empty.
# The second branch of ``g`` changes nothing and returns the grant again: a claim of unknown outcome
# is sent once more under the same token.
CLAIM = text(f"""
WITH i AS MATERIALIZED (
  SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:epochs AS int[])) AS u(id, epoch) ORDER BY id),
{_lock(f"{_GRANTED}, t.state, t.claim_token, t.state_since", ", i.epoch AS sent")},
c AS MATERIALIZED (
  SELECT h.id, h.epoch, h.attempt, h.seq, h.state_since, {_quarantined("h")} AS quarantined,
    row_number() OVER (ORDER BY {_quarantined("h")}, h.priority DESC, h.due_at, h.id) AS place
  FROM h WHERE h.state = 'QUEUED' AND h.epoch = h.sent),
n AS MATERIALIZED (
  SELECT * FROM c
  WHERE CASE WHEN quarantined
    THEN CAST(:exclusive AS bool) AND place = 1 AND NOT EXISTS (
      SELECT FROM tasks r WHERE r.worker_id = CAST(:worker AS uuid) AND r.state = 'RUNNING')
    ELSE NOT EXISTS (
      SELECT FROM tasks r WHERE r.worker_id = CAST(:worker AS uuid) AND r.state = 'RUNNING'
        AND {_quarantined("r")}) END),
u AS (
  UPDATE tasks t SET state = '{State.RUNNING}', epoch = n.epoch + 1, attempt = n.attempt + 1,
    seq = n.seq + 1, worker_id = CAST(:worker AS uuid), claim_token = CAST(:token AS uuid),
    claimed_at = clock_timestamp(), state_since = clock_timestamp(), hint_deadline = NULL,
    finished_at = NULL
  FROM n WHERE t.id = n.id
  RETURNING {_GRANTED}, n.state_since AS queued_at),
e AS (
  INSERT INTO task_events ({EVENT_COLUMNS})
  SELECT id, seq, claimed_at, '{State.QUEUED}', '{State.RUNNING}', epoch, attempt,
         CAST(:actor AS text), '{Reason.CLAIMED}', NULL FROM u),
g AS (
  SELECT *, true AS granted, false AS again FROM u
  UNION ALL
  SELECT {_GRANTED}, {_QUEUED_AT}, true, true
  FROM h AS t WHERE t.state = 'RUNNING' AND t.claim_token = CAST(:token AS uuid)
  UNION ALL
  SELECT {_GRANTED}, t.state_since, false, false
  FROM h AS t WHERE t.id IN (SELECT id FROM c EXCEPT SELECT id FROM n))
SELECT granted, again, id AS task_id, epoch, attempt, name, queue, payload, max_attempts,
  attempt - losses - handed_back AS failures, timeout_seconds, traceparent, claimed_at, queued_at,
  EXTRACT(EPOCH FROM claimed_at - due_at)::float8 AS waited_seconds,
  EXTRACT(EPOCH FROM claimed_at - GREATEST(run_at, created_at))::float8 AS age_seconds,
  EXTRACT(EPOCH FROM clock_timestamp() - claimed_at)::float8 AS running_seconds,
  {_quarantined("g")} AS quarantined
FROM g ORDER BY priority DESC, due_at, id""")

HEARTBEAT = text("""
WITH w AS (
  UPDATE workers SET lease_expires_at =
    clock_timestamp() + make_interval(secs => CAST(:lease AS float8))
  WHERE id = CAST(:worker AS uuid) AND dead_at IS NULL RETURNING id)
SELECT t.id AS task_id, t.epoch, t.cancel_requested, t.attempt, t.name, t.queue, t.traceparent,
  t.claimed_at
FROM w LEFT JOIN tasks t ON t.worker_id = w.id AND t.state = 'RUNNING'
ORDER BY t.id""")

# The end of an attempt, told once or twice: it stands if the epoch fits, or if this very worker
# ended this very attempt before. Everything else is a stale write: refused, and witnessed.
_ANSWER = """
settled AS (
  SELECT id, epoch - 1 AS sent, outcome, state, epoch, true AS made, true AS done FROM u
  UNION ALL
  SELECT i.id, i.epoch, i.outcome, h.state, h.epoch, false,
    COALESCE(h.epoch = i.epoch + 1 AND h.released_by = CAST(:worker AS uuid), false)
  FROM i LEFT JOIN h ON h.id = i.id WHERE i.id NOT IN (SELECT id FROM u)),
s AS (
  INSERT INTO stale_writes (task_id, at, worker_id, epoch, outcome, state_found, epoch_found)
  SELECT id, clock_timestamp(), CAST(:worker AS uuid), sent, outcome, state, epoch
  FROM settled WHERE NOT done)
SELECT id AS task_id, made, done, state, epoch FROM settled"""

FINISH = text(f"""
WITH i AS MATERIALIZED (
  SELECT u.*, '{Reason.SUCCEEDED}' AS outcome FROM unnest(
    CAST(:ids AS uuid[]), CAST(:epochs AS int[]), CAST(:results AS text[])
  ) AS u(id, epoch, result) ORDER BY id),
{_lock("t.id, t.state, t.epoch, t.seq, t.released_by", ", i.epoch AS sent, i.outcome, i.result")},
n AS (
  SELECT h.id, h.epoch, h.seq, h.outcome, h.result FROM h
  WHERE h.state = 'RUNNING' AND h.epoch = h.sent),
u AS (
  UPDATE tasks t SET state = '{State.SUCCEEDED}', {LEAVE_RUNNING},
    released_by = CAST(:worker AS uuid), finished_at = clock_timestamp()
  FROM n WHERE t.id = n.id
  RETURNING t.id, t.state, t.epoch, t.attempt, t.seq, t.finished_at, n.outcome, n.result),
f AS (
  INSERT INTO effects (effect_key, task_id, epoch, attempt, at, result)
  SELECT id, id, epoch, attempt, finished_at, CAST(result AS jsonb) FROM u ORDER BY id),
e AS (
  INSERT INTO task_events ({EVENT_COLUMNS})
  SELECT id, seq, finished_at, '{State.RUNNING}', state, epoch, attempt, CAST(:actor AS text),
         '{Reason.SUCCEEDED}', NULL FROM u),
{_ANSWER}""")

RELEASE = text(f"""
WITH i AS MATERIALIZED (
  SELECT * FROM unnest(
    CAST(:ids AS uuid[]), CAST(:epochs AS int[]), CAST(:reasons AS text[]),
    CAST(:delays AS float8[]), CAST(:details AS text[])
  ) AS u(id, epoch, outcome, delay, detail) ORDER BY id),
{_lock(_COUNTERS, ", i.epoch AS sent, i.outcome, i.delay, i.detail")},
n AS (
  SELECT h.id, h.epoch, h.seq, h.due_at, h.outcome, h.delay, h.detail,
    h.handed_back + (h.outcome = '{Reason.HANDED_BACK}')::int AS handed_back,
    CASE WHEN h.cancel_requested THEN '{State.CANCELLED}'
         WHEN h.outcome = '{Reason.HANDED_BACK}' THEN '{State.SCHEDULED}'
         WHEN h.outcome = '{Reason.DISCARDED}' THEN '{State.FAILED}'
         WHEN h.attempt - h.losses - h.handed_back >= h.max_attempts THEN '{State.FAILED}'
         ELSE '{State.SCHEDULED}' END AS next
  FROM h WHERE h.state = 'RUNNING' AND h.epoch = h.sent),
u AS (
  UPDATE tasks t SET state = n.next, {LEAVE_RUNNING}, released_by = CAST(:worker AS uuid),
    handed_back = n.handed_back,
    due_at = CASE WHEN n.next = '{State.SCHEDULED}'
      THEN clock_timestamp() + make_interval(secs => n.delay) ELSE n.due_at END,
    finished_at = CASE WHEN n.next <> '{State.SCHEDULED}' THEN clock_timestamp() END
  FROM n WHERE t.id = n.id
  RETURNING t.id, t.state, t.epoch, t.attempt, t.seq, n.outcome, n.detail),
e AS (
  INSERT INTO task_events ({EVENT_COLUMNS})
  SELECT id, seq, clock_timestamp(), '{State.RUNNING}', state, epoch, attempt,
         CAST(:actor AS text), outcome, CAST(detail AS jsonb) FROM u),
{_ANSWER}""")

RETIRE = text("""
UPDATE workers SET dead_at = clock_timestamp(), dead_reason = 'stopped'
WHERE id = CAST(:worker AS uuid) AND dead_at IS NULL RETURNING id""")

CANCEL = text(f"""
WITH i AS MATERIALIZED (SELECT * FROM unnest(CAST(:ids AS uuid[])) AS u(id) ORDER BY id),
{_lock(_COUNTERS)},
n AS (
  SELECT h.id, h.seq, h.state, h.epoch, h.worker_id, h.claim_token,
    CASE h.state WHEN 'RUNNING' THEN '{State.RUNNING}' ELSE '{State.CANCELLED}' END AS next
  FROM h WHERE h.state IN ('SCHEDULED', 'QUEUED')
    OR (h.state = 'RUNNING' AND NOT h.cancel_requested)),
u AS (
  UPDATE tasks t SET state = n.next, epoch = n.epoch, worker_id = n.worker_id,
    claim_token = n.claim_token, seq = n.seq + 1, cancel_requested = true, hint_deadline = NULL,
    state_since = CASE WHEN n.next = '{State.CANCELLED}' THEN clock_timestamp()
                       ELSE t.state_since END,
    finished_at = CASE WHEN n.next = '{State.CANCELLED}' THEN clock_timestamp() END
  FROM n WHERE t.id = n.id
  RETURNING t.id, t.state, t.epoch, t.attempt, t.seq, n.state AS found),
e AS (
  INSERT INTO task_events ({EVENT_COLUMNS})
  SELECT id, seq, clock_timestamp(), found, state, epoch, attempt, CAST(:actor AS text),
    CASE state WHEN 'RUNNING' THEN '{Reason.CANCEL_REQUESTED}' ELSE '{Reason.CANCELLED}' END,
    NULL FROM u)
SELECT i.id AS task_id, COALESCE(u.state, h.state) AS state, COALESCE(u.epoch, h.epoch) AS epoch,
  h.state AS found, h.attempt, h.queue, h.traceparent, u.id IS NOT NULL AS made,
  u.id IS NOT NULL OR COALESCE(h.state = 'CANCELLED' OR h.state = 'RUNNING', false) AS done
FROM i LEFT JOIN h ON h.id = i.id LEFT JOIN u ON u.id = i.id""")

# A dead letter gets one more attempt than it has used; the counters go on.
RETRY = text(f"""
WITH i AS MATERIALIZED (SELECT * FROM unnest(CAST(:ids AS uuid[])) AS u(id) ORDER BY id),
{_lock(_COUNTERS)},
u AS (
  UPDATE tasks t SET state = '{State.SCHEDULED}', epoch = h.epoch, worker_id = NULL,
    claim_token = NULL, seq = h.seq + 1, finished_at = NULL, state_since = clock_timestamp(),
    due_at = clock_timestamp(), cancel_requested = false,
    max_attempts = GREATEST(h.max_attempts, h.attempt - h.losses - h.handed_back + 1),
    max_losses = GREATEST(h.max_losses, h.losses + 1)
  FROM h WHERE t.id = h.id AND h.state = 'FAILED'
  RETURNING t.id, t.state, t.epoch, t.attempt, t.seq),
e AS (
  INSERT INTO task_events ({EVENT_COLUMNS})
  SELECT id, seq, clock_timestamp(), '{State.FAILED}', state, epoch, attempt,
         CAST(:actor AS text), '{Reason.RETRIED}', NULL FROM u)
SELECT i.id AS task_id, COALESCE(u.state, h.state) AS state, COALESCE(u.epoch, h.epoch) AS epoch,
  h.state AS found, h.attempt, h.queue, h.traceparent, u.id IS NOT NULL AS made,
  u.id IS NOT NULL AS done
FROM i LEFT JOIN h ON h.id = i.id LEFT JOIN u ON u.id = i.id""")

REGISTER = text("""
WITH w AS (
  INSERT INTO workers (id, label, queues, started_at, lease_expires_at)
  VALUES (CAST(:worker AS uuid), CAST(:label AS text), CAST(:queues AS text[]), clock_timestamp(),
          clock_timestamp() + make_interval(secs => CAST(:lease AS float8)))
  ON CONFLICT (id) DO NOTHING),
a AS (
  INSERT INTO task_names AS t (name, max_attempts, timeout_seconds, announced_at)
  SELECT u.*, clock_timestamp() FROM unnest(
    CAST(:names AS text[]), CAST(:max_attempts AS int[]), CAST(:timeouts AS float8[])
  ) AS u(name, max_attempts, timeout_seconds) ORDER BY name
  ON CONFLICT (name) DO UPDATE SET max_attempts = EXCLUDED.max_attempts,
    timeout_seconds = EXCLUDED.timeout_seconds, announced_at = EXCLUDED.announced_at)
SELECT clock_timestamp()""")

ANNOUNCED = text("SELECT name FROM task_names ORDER BY name")

STORY = text(f"""
SELECT {TASK_COLUMNS},
  (SELECT jsonb_agg(to_jsonb(e) ORDER BY e.seq) FROM task_events e WHERE e.task_id = t.id)
    AS events,
  (SELECT to_jsonb(f) FROM effects f WHERE f.effect_key = t.id) AS effect
FROM tasks t WHERE t.id = CAST(:id AS uuid)""")

CLOCK = text("SELECT clock_timestamp()")
