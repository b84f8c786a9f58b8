"""Enqueue tasks from Python inside your own SQL transaction: they exist only if it commits.

    with engine.begin() as connection:
        connection.execute(insert(orders).values(...))
        enqueue(connection, "send_email", {"to": "user@example.com"})

``connection`` is a SQLAlchemy ``Connection`` to Holdfast's database, with any driver and any
search_path. From asyncio:
``await connection.run_sync(enqueue, "send_email", {"to": "user@example.com"})``.

Schedulers see the task within a second of the commit. Names are not checked against the announced
ones: a task with an unknown name waits until a worker announces it. Queues are: a task is stored
only in "default", in a queue that a worker ever announced, or in one of HOLDFAST_KNOWN_QUEUES.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from opentelemetry import trace
from sqlalchemy import Connection

from holdfast.errors import HoldfastError
from holdfast.model.ids import new_ids
from holdfast.model.payload import encode_python
from holdfast.model.request import TaskRequest, to_new_task
from holdfast.model.task import DEFAULT_QUEUE, Limits, NewTask
from holdfast.store.qualified import SCHEMA
from holdfast.store.submit import submit_rows
from holdfast.telemetry import traceparent as w3c
from holdfast.telemetry.trace_context import TRACE_RATIO, new_traceparent

_ACTOR = "client"


class IdempotencyKeyReused(HoldfastError):
    """The idempotency key belongs to another request, which created the task ``task_id``."""

    def __init__(self, key: str, task_id: UUID) -> None:
        super().__init__(
            f"the idempotency key {key!r} belongs to another request, which created task {task_id}"
        )
        self.key = key
        self.task_id = task_id


def enqueue(  # noqa: PLR0913 - named arguments, one per member of TaskRequest
    connection: Connection,
    name: str,
    payload: dict[str, Any] | None = None,
    *,
    run_at: datetime | None = None,
    queue: str = DEFAULT_QUEUE,
    priority: int = 0,
    max_attempts: int | None = None,
    timeout_seconds: float | None = None,
    idempotency_key: str | None = None,
    traceparent: str | None = None,
    trace_ratio: float = TRACE_RATIO,
    schema: str = SCHEMA,
) -> UUID:
    """Store one task in the caller's transaction and return its id.

    The arguments are those of ``TaskRequest``. If the same request was made before under the
    idempotency key, return the id of its task. The task continues the trace of ``traceparent``,
    else of the current OpenTelemetry span, else starts a trace (``trace_ratio`` are sampled).
    ``schema`` is the deployment's ``HOLDFAST_DATABASE_SCHEMA``.

    Raises:
        pydantic.ValidationError: an argument is out of bounds.
        PayloadError: the payload would change when read back.
        IdempotencyKeyReused: the key belongs to another request; roll back or use another key.
        UnknownQueue: no worker or setting has announced the queue.
    """
    request = TaskRequest(
        name=name,
        payload=payload or {},
        run_at=run_at,
        queue=queue,
        priority=priority,
        max_attempts=max_attempts,
        timeout_seconds=timeout_seconds,
        idempotency_key=idempotency_key,
    )
    (task_id,) = enqueue_many(
        connection, [request], traceparent=traceparent, trace_ratio=trace_ratio, schema=schema
    )
    return task_id


def enqueue_many(
    connection: Connection,
    tasks: Sequence[TaskRequest],
    *,
    traceparent: str | None = None,
    trace_ratio: float = TRACE_RATIO,
    schema: str = SCHEMA,
) -> list[UUID]:
    """Store tasks in one batch and return their ids in order. Raise the errors of ``enqueue``.

    All continue one trace, chosen as in ``enqueue``; without one, each starts its own.
    """
    current = w3c.parse(traceparent) or trace.get_current_span().get_span_context()
    new = [
        to_new_task(
            task,
            task_id,
            encode_python(task.payload),
            w3c.write(current) if current.is_valid else new_traceparent(trace_ratio),
        )
        for task, task_id in zip(tasks, new_ids(len(tasks)), strict=True)
    ]
    if not new:
        return []
    answers = submit_rows(
        connection, new, _ACTOR, Limits(), known_queues=(DEFAULT_QUEUE,), schema=schema
    )
    return [
        _checked(task, answer.outcome, answer.task.id)
        for task, answer in zip(new, answers, strict=True)
    ]


def _checked(task: NewTask, outcome: str, task_id: UUID) -> UUID:
    if outcome == "mismatch":
        raise IdempotencyKeyReused(task.idempotency_key or "", task_id)
    return task_id
