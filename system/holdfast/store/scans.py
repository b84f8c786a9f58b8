"""The SQL that scans for work instead of receiving ids: dispatch, sweeps, retention.

The rules of ``transitions.py`` apply, with two exceptions: a scan filters by state before it locks,
and skips rows locked by other transactions (FOR NO KEY UPDATE SKIP LOCKED), so any number of
schedulers run in parallel. A CTE with a LIMIT is MATERIALIZED: inlined, it can return more rows.

The planner cannot estimate how few rows a parameterised LIMIT leaves, and would join them with a
scan of the whole table (113 ms instead of 2 ms per dispatch with 800,000 tasks):
``= ANY(ARRAY(...))`` makes it use the primary key. tests/store/test_scans.py checks the plans.
"""

from __future__ import annotations

from sqlalchemy import text

from holdfast.model.lifecycle import Reason, State
from holdfast.store.transitions import EVENT_COLUMNS, LEAVE_RUNNING, traceparent_of

# Each (queue, priority) with due tasks. As long as fewer than ``scan`` tasks are due, they are read
# from the index of due times: future tasks of any number of queues cost nothing. Beyond that, a
# loose index scan visits every group with SCHEDULED tasks once and reads its earliest due time: its
# cost grows with the number of groups, not with the millions of due, future or finished tasks.
_DUE_GROUPS = f"""soonest AS MATERIALIZED (
  SELECT queue, priority FROM holdfast.tasks
  WHERE state = '{State.SCHEDULED}' AND due_at <= (SELECT clock_timestamp())
  ORDER BY due_at LIMIT CAST(:scan AS int)),
heads AS (
  (SELECT queue, priority, due_at FROM holdfast.tasks WHERE state = '{State.SCHEDULED}'
     AND (SELECT count(*) FROM soonest) >= CAST(:scan AS int)
   ORDER BY queue, priority, due_at, id LIMIT 1)
  UNION ALL
  SELECT next.* FROM heads h, LATERAL (
    SELECT t.queue, t.priority, t.due_at FROM holdfast.tasks t
    WHERE t.state = '{State.SCHEDULED}' AND (t.queue, t.priority) > (h.queue, h.priority)
    ORDER BY t.queue, t.priority, t.due_at, t.id LIMIT 1) next),
groups AS MATERIALIZED (
  SELECT queue, priority FROM soonest
  UNION
  SELECT queue, priority FROM heads WHERE due_at <= (SELECT clock_timestamp()))"""

# Also returns when the next task is due; tasks left behind (no room, or locked by another
# scheduler) are overdue. NULL after a full batch, which the next dispatch follows immediately.
DISPATCH = text(f"""
WITH RECURSIVE {_DUE_GROUPS},
room AS MATERIALIZED (
  SELECT q.queue, GREATEST(0, LEAST(CAST(:n AS int), CAST(:depth AS int) - (
    SELECT count(*) FROM holdfast.tasks t
    WHERE t.state = '{State.QUEUED}' AND t.queue = q.queue))) AS free
  FROM (SELECT DISTINCT queue FROM groups) q),
due AS MATERIALIZED (
  SELECT d.*, r.free FROM groups g JOIN room r ON r.queue = g.queue, LATERAL (
    SELECT t.id, t.queue, t.priority, t.due_at, t.seq, t.state_since FROM holdfast.tasks t
    WHERE t.state = '{State.SCHEDULED}' AND t.queue = g.queue AND t.priority = g.priority
      AND t.due_at <= (SELECT clock_timestamp())
    ORDER BY t.due_at, t.id LIMIT r.free FOR NO KEY UPDATE SKIP LOCKED) d),
eligible AS MATERIALIZED (
  SELECT * FROM (
    SELECT due.*, row_number() OVER (PARTITION BY queue ORDER BY priority DESC, due_at, id) AS place
    FROM due) ranked
  WHERE place <= free),
updated AS (
  UPDATE holdfast.tasks t SET state = '{State.QUEUED}', seq = eligible.seq + 1, publishes = 1,
    state_since = clock_timestamp(),
    hint_deadline = clock_timestamp() + make_interval(secs => CAST(:deadline AS float8))
  FROM eligible WHERE t.id = eligible.id AND t.id = ANY(ARRAY(SELECT id FROM eligible))
  RETURNING t.id, t.epoch, t.attempt, t.seq, t.queue, t.priority, t.due_at,
    eligible.state_since AS since, t.state_since AS at),
event_rows AS (
  INSERT INTO holdfast.task_events ({EVENT_COLUMNS})
  SELECT id, seq, at, '{State.SCHEDULED}', '{State.QUEUED}', epoch, attempt,
         CAST(:actor AS text), '{Reason.DISPATCHED}', NULL FROM updated)
SELECT updated.id AS task_id, updated.epoch, updated.queue, updated.attempt,
  {traceparent_of("updated")}, updated.due_at, updated.since, updated.at,
  next.seconds AS next_due_seconds
FROM (
  SELECT CASE WHEN (SELECT count(*) FROM eligible) < CAST(:n AS int) THEN (
    SELECT EXTRACT(EPOCH FROM t.due_at - clock_timestamp())::float8 FROM holdfast.tasks t
    WHERE t.state = '{State.SCHEDULED}' AND t.id NOT IN (SELECT id FROM eligible)
    ORDER BY t.due_at LIMIT 1) END AS seconds) next
LEFT JOIN updated ON true ORDER BY updated.priority DESC, updated.due_at, updated.id""")

REPUBLISH = text(f"""
WITH eligible AS MATERIALIZED (
  SELECT t.id, t.seq, t.publishes FROM holdfast.tasks t
  WHERE t.state = '{State.QUEUED}' AND t.hint_deadline <= (SELECT clock_timestamp())
  ORDER BY t.hint_deadline, t.id LIMIT CAST(:n AS int) FOR NO KEY UPDATE SKIP LOCKED),
updated AS (
  UPDATE holdfast.tasks t SET seq = eligible.seq + 1, publishes = eligible.publishes + 1,
    hint_deadline = clock_timestamp() + make_interval(secs => LEAST(
      CAST(:deadline_max AS float8),
      CAST(:deadline AS float8) * power(2, LEAST(eligible.publishes, 30))))
  FROM eligible WHERE t.id = eligible.id AND t.id = ANY(ARRAY(SELECT id FROM eligible))
  RETURNING t.id, t.epoch, t.attempt, t.seq, t.queue),
event_rows AS (
  INSERT INTO holdfast.task_events ({EVENT_COLUMNS})
  SELECT id, seq, clock_timestamp(), '{State.QUEUED}', '{State.QUEUED}', epoch, attempt,
         CAST(:actor AS text), '{Reason.REPUBLISHED}', NULL FROM updated)
SELECT id AS task_id, epoch, queue, attempt, {traceparent_of("updated")} FROM updated
ORDER BY id""")

# Redis lost every hint that was published before ``since``: each QUEUED task is due for
# republishing, and its deadline starts anew. Waits for locked rows: a skipped task would keep its
# old deadline. A hint with a later deadline and no doubling was published after ``since``: without
# this condition, schedulers that do this side by side would expire each other's hints for ever.
EXPIRE_HINTS = text(f"""
WITH late AS MATERIALIZED (
  SELECT t.id FROM holdfast.tasks t
  WHERE t.state = '{State.QUEUED}' AND t.hint_deadline > CAST(:since AS timestamptz)
    AND (t.publishes > 1 OR t.hint_deadline
      <= CAST(:since AS timestamptz) + make_interval(secs => CAST(:deadline AS float8)))
  ORDER BY t.queue, t.hint_deadline LIMIT CAST(:n AS int)),
locked AS MATERIALIZED (
  SELECT t.id, t.state FROM holdfast.tasks t WHERE t.id = ANY(ARRAY(SELECT id FROM late))
  ORDER BY t.id FOR NO KEY UPDATE),
updated AS (
  UPDATE holdfast.tasks t SET hint_deadline = CAST(:since AS timestamptz), publishes = 0 FROM locked
  WHERE t.id = locked.id AND t.id = ANY(ARRAY(SELECT id FROM locked))
    AND locked.state = '{State.QUEUED}')
SELECT id FROM late""")

# The expiry is checked again on the locked row: a heartbeat may have been committed in between. A
# statement executed more than ``within`` seconds after it was sent (``asked``, by the database's
# clock) marks no worker dead: while Postgres stalls, heartbeats wait too.
MARK_DEAD = text("""
WITH locked AS MATERIALIZED (
  SELECT id, lease_expires_at FROM holdfast.workers
  WHERE dead_at IS NULL AND lease_expires_at <= (SELECT clock_timestamp())
  ORDER BY id LIMIT CAST(:n AS int) FOR NO KEY UPDATE SKIP LOCKED)
UPDATE holdfast.workers w SET dead_at = clock_timestamp(), dead_reason = 'lease expired'
FROM locked WHERE w.id = locked.id AND locked.lease_expires_at <= clock_timestamp()
  AND clock_timestamp() <= CAST(:asked AS timestamptz)
    + make_interval(secs => CAST(:within AS float8))
RETURNING w.id""")

_NOT_STARTED = """jsonb_build_object('error', jsonb_build_object(
           'type', 'NotStarted', 'message', 'by the last heartbeat the handler had not begun'))"""

# ``running`` reads what a sweep must read, and nothing else: with a small LIMIT the planner would
# walk the whole primary key to find the first overdue attempts (20 s instead of 0.1 s).
# Level-triggered, on every tick. A worker is dead only if its row says so (rows of dead workers are
# kept while tasks reference them): a missing row may be a worker registered after this snapshot.
# An attempt is timed out only if its worker renewed its lease (``heard``) after the timeout and the
# grace. Without that the worker may be dead; the attempt is then lost with it, which does not use
# up ``max_attempts``. Nor does an attempt whose handler had not begun by that heartbeat: the answer
# to its claim is late. It never begins, since a worker begins nothing later than the grace.
# A worker that was stopped has said the same of the claims that it got no answer to: their attempts
# are not lost either.
RECLAIM = text(f"""
WITH dead AS MATERIALIZED (
  SELECT id, CASE dead_reason WHEN 'stopped' THEN COALESCE(begun_until, '-infinity')
    ELSE 'infinity' END AS begun_until
  FROM holdfast.workers WHERE dead_at IS NOT NULL),
alive AS MATERIALIZED (
  SELECT id, LEAST(lease_expires_at - make_interval(secs => CAST(:lease AS float8)),
    (SELECT clock_timestamp())) AS heard, begun_until
  FROM holdfast.workers WHERE dead_at IS NULL),
running AS MATERIALIZED (
  SELECT id, epoch, worker_id, claimed_at, timeout_seconds FROM holdfast.tasks
  WHERE state = '{State.RUNNING}'),
overdue AS MATERIALIZED (
  SELECT t.id, t.epoch, COALESCE(t.claimed_at <= dead.begun_until, false) AS lost,
    COALESCE(t.claimed_at > dead.begun_until, alive.id IS NOT NULL
      AND COALESCE(t.claimed_at > alive.begun_until, true)) AS unbegun
  FROM running t LEFT JOIN alive ON alive.id = t.worker_id
    LEFT JOIN dead ON dead.id = t.worker_id
  WHERE dead.id IS NOT NULL
    OR t.claimed_at + make_interval(secs => t.timeout_seconds + CAST(:grace AS float8))
       <= alive.heard
  ORDER BY t.id LIMIT CAST(:n AS int)),
locked AS MATERIALIZED (
  SELECT t.id, t.epoch, t.seq, t.due_at, t.attempt, t.losses, t.handed_back, t.max_attempts,
    t.max_losses, t.cancel_requested, t.worker_id, t.claimed_at, overdue.lost, overdue.unbegun
  FROM overdue JOIN holdfast.tasks t ON t.id = overdue.id AND t.epoch = overdue.epoch
  WHERE t.id = ANY(ARRAY(SELECT id FROM overdue))
  ORDER BY t.id FOR NO KEY UPDATE OF t SKIP LOCKED),
eligible AS (
  SELECT locked.id, locked.epoch, locked.seq, locked.due_at, locked.worker_id, locked.claimed_at,
    locked.losses + locked.lost::int AS losses,
    locked.handed_back + locked.unbegun::int AS handed_back,
    CASE WHEN locked.lost THEN '{Reason.LOST}'
         WHEN locked.unbegun THEN '{Reason.RELEASED}'
         ELSE '{Reason.TIMED_OUT}' END AS reason,
    CASE WHEN locked.cancel_requested THEN '{State.CANCELLED}'
         WHEN locked.lost AND locked.losses + 1 >= locked.max_losses THEN '{State.FAILED}'
         WHEN NOT locked.lost AND NOT locked.unbegun
             AND locked.attempt - locked.losses - locked.handed_back >= locked.max_attempts
           THEN '{State.FAILED}'
         ELSE '{State.SCHEDULED}' END AS next
  FROM locked),
updated AS (
  UPDATE holdfast.tasks t SET state = eligible.next, {LEAVE_RUNNING}, released_by = NULL,
    losses = eligible.losses, handed_back = eligible.handed_back,
    due_at = CASE WHEN eligible.next = '{State.SCHEDULED}' THEN clock_timestamp()
                  ELSE eligible.due_at END,
    finished_at = CASE WHEN eligible.next <> '{State.SCHEDULED}' THEN clock_timestamp() END
  FROM eligible WHERE t.id = eligible.id AND t.id = ANY(ARRAY(SELECT id FROM eligible))
  RETURNING t.id, t.state, t.epoch, t.attempt, t.seq, t.name, t.queue,
    eligible.worker_id AS owner, eligible.claimed_at, t.state_since AS at, eligible.reason),
event_rows AS (
  INSERT INTO holdfast.task_events ({EVENT_COLUMNS})
  SELECT id, seq, at, '{State.RUNNING}', state, epoch, attempt,
         CAST(:actor AS text), reason, jsonb_build_object('worker', owner)
         || CASE reason WHEN '{Reason.RELEASED}' THEN {_NOT_STARTED} ELSE '{{}}' END FROM updated)
SELECT id AS task_id, state, epoch, reason, owner, attempt, name, queue,
  {traceparent_of("updated")}, claimed_at, at
FROM updated""")

# Only their queues can have a consumer to drain. Redis is not asked: it would have to be scanned.
QUEUES_OF_DEAD_WORKERS = text("""
SELECT id, queues FROM holdfast.workers
WHERE dead_at IS NOT NULL AND id > CAST(:after AS uuid) ORDER BY id LIMIT CAST(:n AS int)""")

DEAD_WORKERS = text("""
SELECT id FROM holdfast.workers WHERE dead_at IS NOT NULL AND id = ANY(CAST(:ids AS uuid[]))
  ORDER BY id""")

# Ids are UUIDv7, so the primary key is in order of creation: ``bound`` ends the scan at tasks too
# young to be past any retention.
PRUNE = text(f"""
WITH locked AS MATERIALIZED (
  SELECT t.id FROM holdfast.tasks t
  WHERE t.id < CAST(:bound AS uuid) AND t.finished_at <= (SELECT clock_timestamp())
    - make_interval(secs => CASE WHEN t.state = '{State.FAILED}' THEN CAST(:dead_letter AS float8)
                                 ELSE CAST(:retention AS float8) END)
  ORDER BY t.id LIMIT CAST(:n AS int) FOR UPDATE SKIP LOCKED),
event_rows AS (DELETE FROM holdfast.task_events WHERE task_id = ANY(ARRAY(SELECT id FROM locked))),
effect_rows AS (DELETE FROM holdfast.effects WHERE effect_key = ANY(ARRAY(SELECT id FROM locked))),
stale AS (DELETE FROM holdfast.stale_writes WHERE task_id = ANY(ARRAY(SELECT id FROM locked))),
request_rows AS (DELETE FROM holdfast.requests WHERE id = ANY(ARRAY(SELECT id FROM locked))),
deleted AS (DELETE FROM holdfast.tasks WHERE id = ANY(ARRAY(SELECT id FROM locked)) RETURNING id)
SELECT count(*) FROM deleted""")

PRUNE_WORKERS = text(f"""
DELETE FROM holdfast.workers WHERE id = ANY(ARRAY(
  SELECT w.id FROM holdfast.workers w
  WHERE w.dead_at <= clock_timestamp() - make_interval(secs => CAST(:retention AS float8))
    AND NOT EXISTS (SELECT FROM holdfast.tasks t WHERE t.state = '{State.RUNNING}'
      AND t.worker_id = w.id)
  ORDER BY w.id LIMIT CAST(:n AS int)))
RETURNING id""")

# For metrics. Cheap with millions of rows, because every part walks an index and stops at ``cap``
# (due and QUEUED tasks: per queue). The ORDER BY selects the index: without it the planner may scan
# the whole table for a LIMIT that it expects to reach soon.
BACKLOG = text(f"""
WITH RECURSIVE {_DUE_GROUPS},
queued_queues AS (
  (SELECT queue FROM holdfast.tasks WHERE state = '{State.QUEUED}' ORDER BY queue LIMIT 1)
  UNION ALL
  SELECT next.queue FROM queued_queues q, LATERAL (
    SELECT t.queue FROM holdfast.tasks t WHERE t.state = '{State.QUEUED}' AND t.queue > q.queue
    ORDER BY t.queue LIMIT 1) next),
due AS (
  SELECT g.queue, LEAST(sum(d.n), CAST(:cap AS int))::int AS due, min(d.oldest) AS oldest
  FROM groups g, LATERAL (
    SELECT count(*) AS n, min(counted.due_at) AS oldest FROM (
      SELECT t.due_at FROM holdfast.tasks t
      WHERE t.state = '{State.SCHEDULED}' AND t.queue = g.queue AND t.priority = g.priority
        AND t.due_at <= (SELECT clock_timestamp())
      ORDER BY t.due_at LIMIT CAST(:cap AS int)) counted) d
  GROUP BY g.queue),
queued AS (
  SELECT n.queue, d.queued, d.oldest FROM queued_queues n, LATERAL (
    SELECT count(*) AS queued, min(counted.due_at) AS oldest FROM (
      SELECT t.due_at FROM holdfast.tasks t WHERE t.state = '{State.QUEUED}' AND t.queue = n.queue
      ORDER BY t.hint_deadline LIMIT CAST(:cap AS int)) counted) d),
depths AS (
  SELECT queue, COALESCE(due, 0) AS due, COALESCE(queued, 0) AS queued,
    GREATEST(0, COALESCE(EXTRACT(EPOCH FROM clock_timestamp()
      - LEAST(due.oldest, queued.oldest)), 0))::float8 AS oldest_seconds
  FROM due FULL JOIN queued USING (queue))
SELECT f.*, d.* FROM (
  SELECT count(*) AS dead_letters,
    (SELECT COALESCE(max(id), 0) FROM holdfast.stale_writes) AS last_stale_write
  FROM (
    SELECT FROM holdfast.tasks WHERE state = '{State.FAILED}'
      ORDER BY id LIMIT CAST(:cap AS int)) failed) f
LEFT JOIN depths d ON true ORDER BY d.queue""")
