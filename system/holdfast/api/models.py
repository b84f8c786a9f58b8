"""Describe the responses of the API for its documentation; ``responses.py`` builds them.

Every response shows a task in the same shape, ``Task``.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema

from holdfast.model.lifecycle import Reason, State

BATCH_TASKS_MAX = 1000

# REST shows reasons in words, rows hold codes. The schema is named "Reason".
ReasonText = StrEnum("Reason", [(reason.name, reason.text) for reason in Reason])  # type: ignore[misc]
ReasonText.__doc__ = "Why a transition happened: the ``reason`` column of ``task_events``."

_TASK_ID = "0197a1b2-3c4d-7e5f-8a6b-7c8d9e0f1a2b"
_ATTEMPT_EXAMPLE: dict[str, JsonValue] = {
    "attempt": 1,
    "epoch": 1,
    "worker": "0197a1b0-0000-7000-8000-000000000001",
    "started_at": "2026-01-09T10:00:00.012000Z",
    "ended_at": "2026-01-09T10:00:00.345000Z",
    "outcome": "succeeded",
    "error": None,
}
_TASK_EXAMPLE: dict[str, JsonValue] = {
    "id": _TASK_ID,
    "name": "send_email",
    "payload": {"to": "user@example.com"},
    "queue": "default",
    "priority": 0,
    "state": "SUCCEEDED",
    "run_at": "2026-01-09T10:00:00Z",
    "created_at": "2026-01-09T09:00:00.500000Z",
    "due_at": "2026-01-09T10:00:00Z",
    "finished_at": "2026-01-09T10:00:00.345000Z",
    "epoch": 2,
    "attempt": 1,
    "max_attempts": 5,
    "losses": 0,
    "handed_back": 0,
    "timeout_seconds": 300.0,
    "cancel_requested": False,
    "idempotency_key": "order-17-confirmation",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "result": {"message_id": f"<{_TASK_ID}@holdfast>"},
    "attempts": [_ATTEMPT_EXAMPLE],
}


class TaskError(BaseModel):
    """The exception that an attempt raised."""

    type: str
    message: str
    traceback: str | None = None


class Attempt(BaseModel):
    """One run of the handler, finished or in progress."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ATTEMPT_EXAMPLE]})

    attempt: int
    epoch: int = Field(description="Fencing token of this attempt; always odd.")
    worker: str = Field(description="Incarnation of the worker: a new id per process start.")
    started_at: datetime
    ended_at: datetime | None = Field(None, description="Null while it is running.")
    outcome: ReasonText | None = Field(None, description="Why it ended; null while it is running.")
    error: TaskError | None = None


class Task(BaseModel):
    """A task. All times are UTC."""

    model_config = ConfigDict(json_schema_extra={"examples": [_TASK_EXAMPLE]})

    id: UUID
    name: str
    payload: dict[str, Any]
    queue: str
    priority: int
    state: State
    run_at: datetime = Field(description="As requested; the time of the submit if none was given.")
    created_at: datetime
    due_at: datetime = Field(description="When the next attempt may start, or the last one could.")
    finished_at: datetime | None = Field(description="When it reached a terminal state.")
    epoch: int = Field(description="Fencing token; odd while a worker owns the task.")
    attempt: int = Field(description="Number of attempts started.")
    max_attempts: int
    losses: int = Field(description="Attempts that ended because their worker died.")
    handed_back: int = Field(
        description="Attempts that ended because their worker stopped, or "
        "had no handler for the name."
    )
    timeout_seconds: float = Field(description="Time limit of one attempt.")
    cancel_requested: bool
    idempotency_key: str | None
    traceparent: str | None
    result: Any = Field(
        None,
        description="Return value of the handler: the task's one effect. Null until the task "
        "has succeeded, and wherever attempts is null.",
    )
    attempts: list[Attempt] | None = Field(
        None,
        description="Those in the latest 500 transitions of the task, oldest first; "
        "GET /tasks/{id}/events has all. Not loaded, and therefore null, in listings and in "
        "responses to submits; GET /tasks/{id} returns them.",
    )


class TaskPage(BaseModel):
    """A page of tasks, newest first."""

    tasks: list[Task]
    next_cursor: str | None = Field(
        description="Pass it as cursor, with the same filters, for the next page. Null at the end, "
        "and only there: a page of large payloads may have fewer tasks than the limit."
    )


class TaskEvent(BaseModel):
    """One transition of a task, with the epoch and the attempt that result from it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "seq": 3,
                    "at": "2026-01-09T10:00:00.012000Z",
                    "from_state": "QUEUED",
                    "to_state": "RUNNING",
                    "epoch": 1,
                    "attempt": 1,
                    "actor": "worker:0197a1b0-0000-7000-8000-000000000001",
                    "reason": "claimed",
                    "detail": None,
                }
            ]
        },
    )

    seq: int
    at: datetime
    from_state: State | None
    to_state: State
    epoch: int
    attempt: int
    actor: str = Field(description='Process that made it: "api:…", "scheduler:…" or "worker:…".')
    reason: ReasonText
    detail: dict[str, Any] | None


class TaskEvents(BaseModel):
    """A page of the transitions of a task, oldest first."""

    events: list[TaskEvent]
    next_cursor: str | None = Field(
        description="Pass it as cursor for the next page. Null at the end."
    )


class BatchRequest(BaseModel):
    """Up to 1,000 tasks. Each is validated separately; the valid ones are stored."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "tasks": [
                        {"name": "echo", "payload": {"n": 1}},
                        {"name": "echo", "payload": {"n": 2}, "idempotency_key": "second"},
                    ]
                }
            ]
        },
    )

    # Items are validated one by one later, so that an invalid one does not reject the others.
    tasks: list[Annotated[Any, WithJsonSchema({"$ref": "#/components/schemas/TaskRequest"})]] = (
        Field(min_length=1, max_length=BATCH_TASKS_MAX)
    )


class BatchResult(BaseModel):
    """Outcome of one task of a batch: either ``task`` or ``problem`` is set."""

    index: int = Field(description="Position in the batch, from 0.")
    status: int = Field(
        description="Status of the same request to POST /tasks/: 201 stored, 200 stored before "
        "under this idempotency key, otherwise see problem."
    )
    task: Task | None = None
    problem: (
        Annotated[dict[str, Any], WithJsonSchema({"$ref": "#/components/schemas/ProblemBody"})]
        | None
    ) = None


class BatchResults(BaseModel):
    """One result per task of the batch, in the same order."""

    results: list[BatchResult]


class Health(BaseModel):
    """State of the process."""

    status: str = Field(examples=["ok"])
