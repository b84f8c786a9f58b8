"""Frozen records of hints and of the results of a scheduler's statements."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Hint:
    """A message that ``task_id`` may be claimed while its epoch is ``epoch``. Never authoritative.

    ``batch_traceparent``: the scheduler's span that published the hint's batch, if sampled.
    ``traceparent``: the task's own, from its row; never published.
    """

    task_id: UUID
    epoch: int
    queue: str
    batch_traceparent: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Republished(Hint):
    """A hint to publish again."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatched(Republished):
    """A hint to publish for a task that was SCHEDULED from ``since`` and QUEUED ``at``."""

    due_at: datetime
    since: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The tasks of one dispatch, and the seconds until the next remaining task is due.

    Negative: overdue. None: no task remains, or the batch was full and the due time was not read.
    """

    tasks: tuple[Dispatched, ...]
    next_due_seconds: float | None


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The backlog of one queue, each count up to a cap.

    ``due``: SCHEDULED and due. ``oldest_seconds``: how long the oldest waiting task is overdue.
    """

    queue: str
    due: int
    queued: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """The backlog by non-empty queue, dead letters and stale writes.

    ``last_stale_write`` is the id of the newest row of ``stale_writes``, 0 if there is none.
    """

    queues: tuple[QueueDepth, ...]
    dead_letters: int
    last_stale_write: int
