"""Store new tasks: the sequence of statements, without I/O.

``submission`` yields statements and receives their rows (sans-IO). The API runs it on autocommit
connections, ``client.enqueue`` inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, TextClause

from holdfast.errors import UnknownQueue
from holdfast.model.task import Limits, NewTask, Submitted, TaskRow
from holdfast.store import transitions
from holdfast.store.decoding import Row, all_rows, row_to_task
from holdfast.store.qualified import in_schema

_ROUNDS_MAX = 3

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
        for row in (yield transitions.SUBMIT, _parameters(pending, actor, limits, known_queues)):
            answers[row["id"]] = Submitted("created", row_to_task(row))
        pending = [task for task in pending if task.id not in answers]
        if pending:
            missing = {task.id for task in pending}
            repeats = [task for task, leader in followers if leader.id in missing]
            rows = yield transitions.SUBMITTED_BEFORE, _keys([*pending, *repeats])
            for task, answer, fingerprint in _stored_before(pending, rows):
                answers[task.id], standing[task.id] = answer, fingerprint
            pending = [task for task in pending if task.id not in answers]
        if pending:
            queues = {"queues": [t.queue for t in pending], "known_queues": list(known_queues)}
            if refused := (yield transitions.UNKNOWN_QUEUES, queues):
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
