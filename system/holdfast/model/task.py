"""Frozen records of tasks, submitted and stored, and of the results of statements on them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from holdfast.model.lifecycle import Reason, State

# Idempotency keys of enqueue(), of an API without keys and of API keys without a name.
DEFAULT_NAMESPACE = "default"
DEFAULT_QUEUE = "default"  # always known


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task as submitted. ``id`` and ``idempotency_key`` are fixed before the first send.

    ``payload`` is JSON text of an object, in UTF-8. ``run_at`` None (or in the past) means now, by
    the database's clock. ``timeout_seconds`` limits one attempt. ``priority``: higher goes first.
    Limits that are None take the handler's announced limits, else the sender's ``Limits``.
    Equal idempotency keys in different ``key_namespace`` s are different keys.

    ``fingerprint`` (SHA-256, 32 bytes) is equal for equal requests. It excludes
    defaults: a worker may announce new ones between a request and its repetition.
    """

    id: UUID
    name: str
    payload: bytes
    queue: str = DEFAULT_QUEUE
    priority: int = 0
    run_at: datetime | None = None
    max_attempts: int | None = None
    max_losses: int | None = None
    timeout_seconds: float | None = None
    idempotency_key: str | None = None
    traceparent: str | None = None
    key_namespace: str = DEFAULT_NAMESPACE
    fingerprint: bytes = field(init=False)

    def __post_init__(self) -> None:
        instant = self.run_at.isoformat() if self.run_at else None
        # Not the repr of the payload, which may be four times as long.
        payload = hashlib.sha256(self.payload).digest()
        asked = (self.name, payload, self.queue, self.priority, instant)
        limits = (self.max_attempts, self.timeout_seconds)
        digest = hashlib.sha256(repr((*asked, *limits)).encode()).digest()
        object.__setattr__(self, "fingerprint", digest)


@dataclass(frozen=True, slots=True)
class Limits:
    """Defaults for limits that neither the request nor the handler sets."""

    max_attempts: int = 5
    timeout_seconds: float = 300.0
    max_losses: int = 3


class TaskRow(NamedTuple):
    """A task as it is stored, without internal columns. All instants are aware UTC.

    ``payload`` is JSON text: nobody who reads a row needs the values.

    A NamedTuple because a frozen dataclass of 24 fields takes three times as long to create.
    """

    id: UUID
    key_namespace: str
    queue: str
    priority: int
    name: str
    payload: bytes
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
    """One transition. ``epoch`` and ``attempt`` are the values after it; ``detail`` is any JSON.

    ``detail`` of a failed attempt: ``{"error": {"type", "message", "traceback"}}``.
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
    """One row of the ledger: the effect of a SUCCEEDED task; ``result`` is JSON text."""

    effect_key: UUID
    task_id: UUID
    epoch: int
    attempt: int
    at: datetime
    result: bytes


@dataclass(frozen=True, slots=True)
class TaskStory:
    """A task with its events and its effect, read in one statement."""

    task: TaskRow
    events: tuple[Event, ...]
    effect: Effect | None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The result of submitting one NewTask.

    created: stored by this or an earlier send of the same id. existing: the idempotency key was
    used before for the same request, which created ``task``. mismatch: it was used for another
    request. ``again``: an earlier send of unknown outcome stored it.
    """

    outcome: Literal["created", "existing", "mismatch"]
    task: TaskRow
    again: bool = False


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Criteria of a listing; None or empty matches any task."""

    states: tuple[State, ...] = ()
    name: str | None = None
    queue: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    run_after: datetime | None = None
    run_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a guarded statement for one id.

    ``made``: this send made the transition. ``done``: this or an earlier send of the same statement
    made it. ``state`` and ``epoch`` are those that an end of an attempt left, although the task may
    have moved on; if not done, those read under the lock, None if the task does not exist.
    """

    task_id: UUID
    made: bool
    done: bool
    state: State | None
    epoch: int | None


@dataclass(frozen=True, slots=True)
class ActionResult(Answer):
    """The result of a cancel or retry; ``found``: the previous state, None if not found."""

    found: State | None
    attempt: int | None
    queue: str | None
    traceparent: str | None
