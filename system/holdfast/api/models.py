"""What the API answers with, as its documentation says it; ``answers.py`` makes it.

``Task`` is the one shape of a task, everywhere.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema

from holdfast.model.lifecycle import Reason, State

BATCH_TASKS_MAX = 1000

# REST shows the reasons in words, where rows have codes. "Reason" is the name of the schema.
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
    """What an attempt raised."""

    type: str
    message: str
    traceback: str | None = None


class Attempt(BaseModel):
    """One run of the handler, or its beginning."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ATTEMPT_EXAMPLE]})

    attempt: int
    epoch: int = Field(description="The fencing token under which it ran; always odd.")
    worker: str = Field(description="Incarnation of the worker: a new id for each process start.")
    started_at: datetime
    ended_at: datetime | None = Field(None, description="Null while it runs.")
    outcome: ReasonText | None = Field(None, description="Why it ended; null while it runs.")
    error: TaskError | None = None


class Task(BaseModel):
    """A task. All instants are UTC."""

    model_config = ConfigDict(json_schema_extra={"examples": [_TASK_EXAMPLE]})

    id: UUID
    name: str
    payload: dict[str, Any]
    queue: str
    priority: int
    state: State
    run_at: datetime = Field(description="As asked for; the instant of the submit if not given.")
    created_at: datetime
    due_at: datetime = Field(description="When the next attempt may start, or the last might.")
    finished_at: datetime | None = Field(description="When it became terminal.")
    epoch: int = Field(description="The fencing token; odd while a worker owns the task.")
    attempt: int = Field(description="Attempts begun so far.")
    max_attempts: int
    losses: int = Field(description="Attempts ended by the death of their worker.")
    handed_back: int = Field(description="Attempts ended by the shutdown of their worker.")
    timeout_seconds: float = Field(description="Limit of one attempt.")
    cancel_requested: bool
    idempotency_key: str | None
    traceparent: str | None
    result: Any = Field(
        None,
        description="What the handler returned: the task's one effect. Null before, and wherever "
        "attempts is null.",
    )
    attempts: list[Attempt] | None = Field(
        None,
        description="Oldest first. Null, which says nothing, in listings and in answers to "
        "submits: GET /tasks/{id} has them.",
    )


class TaskPage(BaseModel):
    """Newest first."""

    tasks: list[Task]
    next_cursor: str | None = Field(
        description="Send it as cursor, with the same filters, for the next page. Null at the end."
    )


class TaskEvent(BaseModel):
    """One transition of a task; epoch and attempt are those after it."""

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
    actor: str = Field(description='Who did it: "api:…", "scheduler:…" or "worker:…".')
    reason: ReasonText
    detail: dict[str, Any] | None


class TaskEvents(BaseModel):
    """What happened to a task, oldest first."""

    events: list[TaskEvent]


class BatchRequest(BaseModel):
    """Up to 1,000 tasks. Each is judged by itself; what is valid is stored."""

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

    # Each is validated by itself, later: one bad task must not spoil the others.
    tasks: list[Annotated[Any, WithJsonSchema({"$ref": "#/components/schemas/TaskRequest"})]] = (
        Field(min_length=1, max_length=BATCH_TASKS_MAX)
    )


class BatchResult(BaseModel):
    """What became of one task of a batch: ``task`` or ``problem`` is there."""

    index: int = Field(description="Its place in the batch, from 0.")
    status: int = Field(
        description="What POST /tasks/ would have answered: 201 stored, 200 stored before under "
        "this idempotency key, 4xx or 503 not stored, see problem."
    )
    task: Task | None = None
    problem: (
        Annotated[dict[str, Any], WithJsonSchema({"$ref": "#/components/schemas/ProblemBody"})]
        | None
    ) = None


class BatchResults(BaseModel):
    """One result for each task of the batch, in its order."""

    results: list[BatchResult]


class Health(BaseModel):
    """The process is there."""

    status: str = Field(examples=["ok"])
