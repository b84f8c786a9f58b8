"""The request for a task, shared by ``POST /tasks/``, batches and ``client.enqueue``."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from holdfast.model.task import DEFAULT_NAMESPACE, DEFAULT_QUEUE, NewTask

TIMEOUT_SECONDS_MAX = 7 * 24 * 3600.0
NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.:-]{0,199}$"
QUEUE_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"
KEY_PATTERN = r"^[\x21-\x7e]{1,255}$"

_RFC3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}:\d{2})?", re.ASCII
)


_EARLIEST = datetime.min.replace(microsecond=1, tzinfo=UTC)
_LATEST = datetime.max.replace(microsecond=999_998, tzinfo=UTC)


def _read_instant(value: object) -> object:
    """Parse text as datetime. Refuse numbers: seconds and milliseconds look alike."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 date and time, such as 2026-01-09T10:00:00Z")
    return datetime.fromisoformat(value.upper())


def _to_utc(value: datetime) -> datetime:
    """Convert to UTC; a value without an offset is read as UTC.

    asyncpg stores the first and the last datetime as -infinity and infinity, which no client could
    read as a time: each becomes the microsecond beside it.
    """
    try:
        value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return min(max(value, _EARLIEST), _LATEST)
    except OverflowError:
        raise ValueError("is before the year 1 or after the year 9999 in UTC") from None


Instant = Annotated[datetime, BeforeValidator(_read_instant), AfterValidator(_to_utc)]


class TaskRequest(BaseModel):
    """A task to run once, at ``run_at`` or as soon as possible."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "name": "send_email",
                    "payload": {"to": "user@example.com"},
                    "run_at": "2026-01-09T10:00:00",
                }
            ]
        },
    )

    name: str = Field(
        pattern=NAME_PATTERN, description="Name of its handler, as announced by a worker."
    )
    payload: dict[str, Any] = Field(
        default_factory=dict,
        description="Argument of the handler: a JSON object, at most 100 levels deep, with at "
        "most 150,000 values, 40,000 of which are objects or arrays.",
    )
    run_at: Instant | None = Field(
        None,
        description="Earliest start (RFC 3339), by the database's clock. Without an offset it is "
        "read as UTC. Absent, null or in the past: now.",
    )
    queue: str = Field(
        DEFAULT_QUEUE,
        pattern=QUEUE_PATTERN,
        description="Queue: only workers that read it run the task. Known queues: default, those "
        "that a worker ever announced, and those of HOLDFAST_KNOWN_QUEUES.",
    )
    priority: int = Field(
        0, ge=0, le=9, description="Among due tasks of one queue, higher goes first."
    )
    max_attempts: int | None = Field(
        None, ge=1, le=1000, description="Total attempts. Absent: the handler's default."
    )
    timeout_seconds: float | None = Field(
        None,
        gt=0,
        le=TIMEOUT_SECONDS_MAX,
        allow_inf_nan=False,
        description="Limit of one attempt. Absent: the handler's default.",
    )
    idempotency_key: str | None = Field(
        None,
        pattern=KEY_PATTERN,
        description="Identifies repetitions of one request: 1 to 255 visible ASCII characters. "
        "Same as the header Idempotency-Key; kept as long as the task.",
    )


def to_new_task(
    request: TaskRequest,
    task_id: UUID,
    payload: bytes,
    traceparent: str,
    key_namespace: str = DEFAULT_NAMESPACE,
) -> NewTask:
    """Return the row to store; ``payload`` is ``request.payload`` as canonical JSON text."""
    return NewTask(
        id=task_id,
        name=request.name,
        payload=payload,
        queue=request.queue,
        priority=request.priority,
        run_at=request.run_at,
        max_attempts=request.max_attempts,
        timeout_seconds=request.timeout_seconds,
        idempotency_key=request.idempotency_key,
        traceparent=traceparent,
        key_namespace=key_namespace,
    )
