"""Store new tasks: the statements and their sequence, without I/O.

The rules of ``transitions.py`` apply. There is no row to lock yet; unique indexes decide.

``submission`` yields statements and receives their rows (sans-IO). The API runs it on autocommit
connections, ``client.enqueue`` inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from holdfast.errors import UnknownQueue
from holdfast.model.lifecycle import Reason, State
from holdfast.model.task import Limits, NewTask, Submitted, TaskRow
from holdfast.store.decoding import Row, all_rows, row_to_task
from holdfast.store.qualified import in_schema
from holdfast.store.transitions import EVENT_COLUMNS, PAYLOAD, WITHOUT_PAYLOAD

_ROUNDS_MAX = 3

_SUBMIT = text(f"""
WITH input AS MATERIALIZED (
  SELECT item.*, clock_timestamp() AS now FROM unnest(
    CAST(:ids AS uuid[]), CAST(:key_namespaces AS text[]), CAST(:queues AS text[]),
    CAST(:priorities AS int[]), CAST(:names AS text[]), CAST(:payloads AS bytea[]),
    CAST(:keys AS text[]), CAST(:fingerprints AS bytea[]), CAST(:traceparents AS text[]),
    CAST(:run_ats AS timestamptz[]), CAST(:max_attempts AS int[]), CAST(:max_losses AS int[]),
    CAST(:timeouts AS float8[])
  ) AS item(id, key_namespace, queue, priority, name, payload, idempotency_key, fingerprint,
         traceparent, run_at, max_attempts, max_losses, timeout_seconds)),
requested AS (
  INSERT INTO holdfast.requests (id, key_namespace, idempotency_key, fingerprint, payload,
    traceparent, run_at, created_at)
  SELECT id, key_namespace, idempotency_key, fingerprint,
    CAST(convert_from(payload, 'UTF8') AS jsonb), traceparent, COALESCE(run_at, now), now
  FROM input
  WHERE queue = ANY(CAST(:known_queues AS text[]))
    OR EXISTS (SELECT FROM holdfast.queue_names q WHERE q.name = queue)
  ORDER BY key_namespace, idempotency_key, id
  ON CONFLICT DO NOTHING
  RETURNING id, key_namespace, idempotency_key, {PAYLOAD} AS payload, traceparent, run_at,
    created_at),
inserted AS (
  INSERT INTO holdfast.tasks (id, queue, priority, name, due_at, state, epoch, seq, attempt, losses,
    handed_back, unhandled, max_attempts, max_losses, timeout_seconds, payload_bytes,
    cancel_requested, publishes, state_since)
  SELECT id, queue, priority, name, GREATEST(input.run_at, now), '{State.SCHEDULED}',
    0, 1, 0, 0, 0, 0,
    COALESCE(input.max_attempts, a.max_attempts, CAST(:default_attempts AS int)),
    COALESCE(max_losses, CAST(:default_losses AS int)),
    COALESCE(input.timeout_seconds, a.timeout_seconds, CAST(:default_timeout AS float8)),
    payload_bytes, false, 0, now
  FROM input LEFT JOIN holdfast.task_names a USING (name)
    JOIN (SELECT id, octet_length(payload) AS payload_bytes FROM requested) stored USING (id)
  RETURNING *),
event_rows AS (
  INSERT INTO holdfast.task_events ({EVENT_COLUMNS})
  SELECT id, seq, state_since, NULL, state, epoch, attempt, CAST(:actor AS text),
         '{Reason.SUBMITTED}', NULL FROM inserted)
SELECT {WITHOUT_PAYLOAD}, payload FROM inserted JOIN requested USING (id)""")

# Why a task was neither inserted nor found.
_UNKNOWN_QUEUES = text("""
SELECT DISTINCT queue FROM unnest(CAST(:queues AS text[])) AS item(queue)
WHERE NOT queue = ANY(CAST(:known_queues AS text[]))
  AND NOT EXISTS (SELECT FROM holdfast.queue_names q WHERE q.name = queue) ORDER BY queue""")

# A separate statement, because the snapshot of _SUBMIT does not include a concurrent winner.
# A payload that was not sent is not returned: a request of 1,000 keys could fetch a gigabyte.
_SUBMITTED_BEFORE = text(f"""
WITH input AS MATERIALIZED (
  SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:key_namespaces AS text[]), CAST(:keys AS text[]),
    CAST(:fingerprints AS bytea[])) AS item(id, key_namespace, idempotency_key, fingerprint)),
found AS (
  SELECT r.*, r.fingerprint = input.fingerprint AS same
  FROM input CROSS JOIN LATERAL (SELECT * FROM holdfast.requests r WHERE r.id = input.id) r
  UNION ALL
  SELECT r.*, r.fingerprint = input.fingerprint
  FROM input CROSS JOIN LATERAL (
    SELECT * FROM holdfast.requests r WHERE r.key_namespace = input.key_namespace
      AND r.idempotency_key = input.idempotency_key AND r.id <> input.id) r)
SELECT {WITHOUT_PAYLOAD}, fingerprint, CASE WHEN same THEN {PAYLOAD} END AS payload
FROM found JOIN LATERAL (SELECT * FROM holdfast.tasks t WHERE t.id = found.id OFFSET 0) t
  USING (id)""")

Submission = Generator[tuple[TextClause, dict[str, Any]], list[Row], list[Submitted]]


def submission(
    tasks: Sequence[NewTask], actor: str, limits: Limits, *, known_queues: Collection[str]
) -> Submission:
    """Store the tasks, each at most once per id and per (key_namespace, idempotency key).

    Yield a statement with its parameters, receive its rows, and finally return the results in the
    order given. Of two tasks with one key the first wins, as if they had been sent one by one.
    A task is stored only if its queue is one of ``known_queues`` or announced.

    Raises:
        UnknownQueue: a queue is neither; tasks of other queues may have been stored.
    """
    answers: dict[UUID, Submitted] = {}
    standing: dict[UUID, bytes] = {}  # id -> fingerprint of the task in its answer
    leaders, followers = _one_per_key(tasks)
    pending = leaders
    for _ in range(_ROUNDS_MAX):
        if not pending:
            break
        for row in (yield _SUBMIT, _parameters(pending, actor, limits, known_queues)):
            answers[row["id"]] = Submitted("created", row_to_task(row))
        pending = [task for task in pending if task.id not in answers]
        if pending:
            missing = {task.id for task in pending}
            repeats = [task for task, leader in followers if leader.id in missing]
            rows = yield _SUBMITTED_BEFORE, _keys([*pending, *repeats])
            for task, answer, fingerprint in _stored_before(pending, rows):
                answers[task.id], standing[task.id] = answer, fingerprint
            pending = [task for task in pending if task.id not in answers]
        if pending:
            queues = {"queues": [t.queue for t in pending], "known_queues": list(known_queues)}
            if refused := (yield _UNKNOWN_QUEUES, queues):
                raise UnknownQueue(refused[0]["queue"])
            # The task under its key was deleted, or its queue announced, in between: insert it now.
    if pending:
        raise RuntimeError(f"{len(pending)} tasks were neither stored nor found")
    for task, leader in followers:
        # Compare with the stored task: the leader itself may be a mismatch.
        same = task.fingerprint == standing.get(leader.id, leader.fingerprint)
        first = answers[leader.id].task
        answers[task.id] = Submitted("existing" if same else "mismatch", first)
    return [answers[task.id] for task in tasks]


def submit_rows(
    connection: Connection,
    tasks: Sequence[NewTask],
    actor: str,
    limits: Limits,
    *,
    known_queues: Collection[str],
    schema: str,
) -> list[Submitted]:
    """Run ``submission`` inside the caller's transaction; raise its and SQLAlchemy's errors."""
    steps = submission(tasks, actor, limits, known_queues=known_queues)
    try:
        statement, parameters = next(steps)
        while True:
            rows = all_rows(connection.execute(in_schema(statement, schema), parameters))
            statement, parameters = steps.send(rows)
    except StopIteration as done:
        answers: list[Submitted] = done.value
        return answers


def _one_per_key(
    tasks: Sequence[NewTask],
) -> tuple[list[NewTask], list[tuple[NewTask, NewTask]]]:
    """Return the first task of each key, and each later one with the first it repeats."""
    first: dict[tuple[str, str], NewTask] = {}
    leaders: dict[UUID, NewTask] = {}
    followers: list[tuple[NewTask, NewTask]] = []
    for task in tasks:
        if task.idempotency_key is None:
            leaders.setdefault(task.id, task)
            continue
        leader = first.setdefault((task.key_namespace, task.idempotency_key), task)
        if leader.id == task.id:
            leaders.setdefault(task.id, task)
        else:
            followers.append((task, leader))
    return list(leaders.values()), followers


def _stored_before(
    tasks: Sequence[NewTask], rows: list[Row]
) -> Iterator[tuple[NewTask, Submitted, bytes]]:
    """Yield each task already stored, its answer, and the stored fingerprint."""
    by_id: dict[UUID, tuple[TaskRow, bytes]] = {}
    by_key: dict[tuple[str, str | None], tuple[TaskRow, bytes]] = {}
    for row in rows:
        found = _split_fingerprint(row)
        key = (found[0].key_namespace, found[0].idempotency_key)
        by_id[found[0].id] = found
        if found[0].payload or key not in by_key:  # without a payload, it was found by a mismatch
            by_key[key] = found
    for task in tasks:
        key = (task.key_namespace, task.idempotency_key)
        if task.id in by_id:  # sent before, with an unknown outcome
            before, fingerprint = by_id[task.id]
            yield task, Submitted("created", before, again=True), fingerprint
        elif task.idempotency_key and key in by_key:
            before, fingerprint = by_key[key]
            same = fingerprint == task.fingerprint
            yield task, Submitted("existing" if same else "mismatch", before), fingerprint


def _split_fingerprint(row: Row) -> tuple[TaskRow, bytes]:
    fingerprint = bytes(row.pop("fingerprint"))
    return row_to_task(row), fingerprint


def _keys(tasks: Sequence[NewTask]) -> dict[str, Any]:
    return {
        "ids": [task.id for task in tasks],
        "key_namespaces": [task.key_namespace for task in tasks],
        "keys": [task.idempotency_key for task in tasks],
        "fingerprints": [task.fingerprint for task in tasks],
    }


def _parameters(
    tasks: Sequence[NewTask], actor: str, limits: Limits, known_queues: Collection[str]
) -> dict[str, Any]:
    return {
        "actor": actor,
        "known_queues": sorted(known_queues),
        "default_attempts": limits.max_attempts,
        "default_losses": limits.max_losses,
        "default_timeout": limits.timeout_seconds,
        "ids": [task.id for task in tasks],
        "key_namespaces": [task.key_namespace for task in tasks],
        "queues": [task.queue for task in tasks],
        "priorities": [task.priority for task in tasks],
        "names": [task.name for task in tasks],
        "payloads": [task.payload for task in tasks],
        "keys": [task.idempotency_key for task in tasks],
        "fingerprints": [task.fingerprint for task in tasks],
        "traceparents": [task.traceparent for task in tasks],
        "run_ats": [task.run_at for task in tasks],
        "max_attempts": [task.max_attempts for task in tasks],
        "max_losses": [task.max_losses for task in tasks],
        "timeouts": [task.timeout_seconds for task in tasks],
    }
