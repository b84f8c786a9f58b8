"""What goes into the store and what comes out: frozen rows, no behaviour."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from system.lifecycle import Reason, State

AttemptKey = tuple[UUID, int]  # task id and epoch


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task as submitted. ``id`` and ``idempotency_key`` are fixed before the first send.

    ``payload`` is JSON text of an object. ``run_at`` None (or in the past) means now, by the
    database's clock. ``timeout_seconds`` limits one attempt. ``priority``: higher goes first.
    Limits that are None become what the handler announced, else the sender's ``Limits``.

    ``fingerprint`` (SHA-256, 32 bytes) is equal for equal requests. Defaults are not part of it:
    they may change between a request and its repetition, when a worker announces new ones.
    """

    id: UUID
    name: str
    payload: str
    queue: str = "default"
    priority: int = 0
    run_at: datetime | None = None
    max_attempts: int | None = None
    max_losses: int | None = None
    timeout_seconds: float | None = None
    idempotency_key: str | None = None
    traceparent: str | None = None
    tenant: str = "default"
    fingerprint: bytes = field(init=False)

    def __post_init__(self) -> None:
        instant = self.run_at.isoformat() if self.run_at else None
        asked = (self.name, self.payload, self.queue, self.priority, instant)
        limits = (self.max_attempts, self.timeout_seconds)
        digest = hashlib.sha256(repr((*asked, *limits)).encode()).digest()
        object.__setattr__(self, "fingerprint", digest)


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds where neither a request nor the handler says anything."""

    max_attempts: int = 5
    timeout_seconds: float = 300.0
    max_losses: int = 3


class TaskRow(NamedTuple):
    """One row of ``tasks`` as users may see it. All instants are aware UTC.

    (A NamedTuple, for there are many: a frozen dataclass of 24 fields takes three times as long.)
    """

    id: UUID
    tenant: str
    queue: str
    priority: int
    name: str
    payload: dict[str, Any]
    idempotency_key: str | None
    traceparent: str | None
    run_at: datetime
    due_at: datetime
    state: State
    epoch: int
    seq: int
    attempt: int
    losses: int
    handed_back: int
    max_attempts: int
    max_losses: int
    timeout_seconds: float
    cancel_requested: bool
    worker_id: UUID | None
    claimed_at: datetime | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Event:
    """One transition. ``epoch`` and ``attempt`` are those after it; ``detail`` is free JSON.

    ``detail`` of an attempt that failed: ``{"error": {"type", "message", "traceback"}}``.
    """

    task_id: UUID
    seq: int
    at: datetime
    from_state: State | None
    to_state: State
    epoch: int
    attempt: int
    actor: str
    reason: Reason
    detail: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Effect:
    """One row of the ledger: the effect of a SUCCEEDED task, with the handler's result."""

    effect_key: UUID
    task_id: UUID
    epoch: int
    attempt: int
    at: datetime
    result: Any


@dataclass(frozen=True, slots=True)
class TaskStory:
    """A task with everything that happened to it, read by one statement."""

    task: TaskRow
    events: tuple[Event, ...]
    effect: Effect | None


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of one NewTask, in the order given.

    created: stored now, or by an earlier send of the same id. existing: the idempotency key was
    used before for the same request, ``task`` is that one. mismatch: used for another request.
    ``again``: it was an earlier send, of unknown outcome, that stored it.
    """

    outcome: Literal["created", "existing", "mismatch"]
    task: TaskRow
    again: bool = False


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks to list; None or empty means any. Instants are compared as given."""

    tenant: str = "default"
    states: tuple[State, ...] = ()
    name: str | None = None
    queue: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    run_after: datetime | None = None
    run_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a guarded statement did to one id.

    ``made``: the transition was made by this very sending. ``done``: it stands, made now or by an
    earlier send of the same statement. Else ``state`` and ``epoch`` are those found under the
    lock, None when there is no such task.
    """

    task_id: UUID
    made: bool
    done: bool
    state: State | None
    epoch: int | None


@dataclass(frozen=True, slots=True)
class Acted(Answer):
    """What a cancel or a retry did; ``found`` is the state before. None: there is no such task."""

    found: State | None
    attempt: int | None
    queue: str | None
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Hint:
    """Says that ``task_id`` may be claimed while its epoch is ``epoch``. Never truth.

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
    """What one dispatch moved, and the seconds until the earliest task left behind is due.

    Negative: overdue. None: there is none, or a whole batch was moved and nobody looked.
    """

    tasks: tuple[Dispatched, ...]
    next_due_seconds: float | None


@dataclass(frozen=True, slots=True)
class AttemptRef:
    """Identifies one attempt, whose ``epoch`` is odd; ``traceparent`` is the task's."""

    task_id: UUID
    epoch: int
    attempt: int
    name: str
    queue: str
    traceparent: str | None

    @property
    def key(self) -> AttemptKey:
        """What tells it from all other attempts."""
        return self.task_id, self.epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(AttemptRef):
    """A claimed attempt: the right to act on the task while its epoch is ``epoch``.

    ``waited_seconds`` from due to claimed, ``age_seconds`` from the instant it first was to run,
    ``running_seconds`` from claimed to the answer that says so, by the database's clock;
    ``queued_at``: it was QUEUED from then on. ``quarantined``: one more loss makes the task FAILED,
    so nothing else may begin in this worker until the attempt is over.
    """

    payload: dict[str, Any]
    max_attempts: int
    failures: int
    timeout_seconds: float
    claimed_at: datetime
    waited_seconds: float
    age_seconds: float
    queued_at: datetime
    quarantined: bool = False
    running_seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim did. Hinted tasks that stand in neither are not to be had (any more).

    ``deferred``: still QUEUED under the hint's epoch, but quarantined: to be claimed when
    nothing else runs in the worker; or it runs such a one according to the database.
    ``again``: how many of the grants an earlier send of the same claim had made.
    """

    grants: tuple[Grant, ...] = ()
    deferred: frozenset[UUID] = frozenset()
    again: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Success:
    """An attempt that succeeded; ``result`` is JSON text."""

    task_id: UUID
    epoch: int
    result: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that ended otherwise; ``reason`` FAILED, TIMED_OUT, DISCARDED or HANDED_BACK.

    ``delay_seconds`` until the next attempt, if there is one. ``detail`` is JSON text.
    """

    task_id: UUID
    epoch: int
    reason: Reason
    delay_seconds: float = 0.0
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedAttempt(AttemptRef):
    """An attempt that is RUNNING under this worker according to the database."""

    cancel_requested: bool
    claimed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReclaimedAttempt(AttemptRef):
    """An attempt that a scheduler ended for its worker ``owner``; ``state`` is the task's now."""

    state: State
    reason: Reason
    owner: UUID
    claimed_at: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class Announcement:
    """A name that some worker can run, with the limits its handler asks for."""

    name: str
    max_attempts: int | None
    timeout_seconds: float | None


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """What waits in one queue, each count up to a cap.

    ``due``: SCHEDULED although due. ``oldest_seconds``: since when the oldest task of both kinds
    should run.
    """

    queue: str
    due: int
    queued: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits, by queue (queues where nothing does are missing), and what went wrong.

    ``last_stale_write`` is the number of the newest row of ``stale_writes``, 0 if there is none.
    """

    queues: tuple[QueueDepth, ...]
    dead_letters: int
    last_stale_write: int
