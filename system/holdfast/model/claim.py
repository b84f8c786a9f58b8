"""Claims and attempts: grants, ends, and attempts read from the database. Frozen records."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from holdfast.model.lifecycle import Reason, State

AttemptKey = tuple[UUID, int]  # task id and epoch


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
        """Return what identifies the attempt."""
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
    """The result of a claim. Hinted tasks in neither set cannot be claimed (any more).

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
    """An attempt that ended otherwise; ``reason`` FAILED, TIMED_OUT, DISCARDED or RELEASED.

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
