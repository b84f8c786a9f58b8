"""Hints, and the results of a scheduler's statements. Frozen records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Hint:
    """A message that ``task_id`` may be claimed while its epoch is ``epoch``. Never authoritative.

    ``batch_traceparent``: the span of the scheduler's batch that published it, if that is sampled.
    ``traceparent``: that of the task's row; it is not part of what is published.
    """

    task_id: UUID
    epoch: int
    queue: str
    batch_traceparent: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Republished(Hint):
    """A hint to publish once more."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatched(Republished):
    """A hint to publish of a task that became QUEUED ``at``; it was SCHEDULED from ``since``."""

    due_at: datetime
    since: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The tasks of one dispatch, and the seconds until the earliest task left behind is due.

    Negative: overdue. None: no task is left, or the batch was full and the due time was not read.
    """

    tasks: tuple[Dispatched, ...]
    next_due_seconds: float | None


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The backlog of one queue, each count up to a cap.

    ``due``: SCHEDULED although due. ``oldest_seconds``: how long ago the oldest waiting task was
    due.
    """

    queue: str
    due: int
    queued: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """The backlog by queue (without empty queues), dead letters and stale writes.

    ``last_stale_write`` is the id of the newest row of ``stale_writes``, 0 if there is none.
    """

    queues: tuple[QueueDepth, ...]
    dead_letters: int
    last_stale_write: int
