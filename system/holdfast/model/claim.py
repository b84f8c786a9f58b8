"""Frozen records of claims and attempts: grants, outcomes, and attempts read from the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
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
        """Return the task id and the epoch."""
        return self.task_id, self.epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(AttemptRef):
    """A claimed attempt: the right to act on the task while its epoch is ``epoch``.

    Durations are by the database's clock: ``waited_seconds`` from due to claimed, ``age_seconds``
    from the first due time to claimed, ``running_seconds`` from claimed to this answer.
    ``queued_at``: when the task became QUEUED. ``quarantined``: one more loss makes the task
    FAILED, so this worker starts nothing else until the attempt has ended. ``unhandled``: how often
    the task was released because its worker had no handler for it. ``payload``: JSON text.
    """

    payload: bytes
    max_attempts: int
    failures: int
    timeout_seconds: float
    claimed_at: datetime
    waited_seconds: float
    age_seconds: float
    queued_at: datetime
    unhandled: int = 0
    quarantined: bool = False
    running_seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Claimed:
    """The result of a claim. A hinted task in none of these cannot be claimed: drop its hint.

    ``deferred``: QUEUED under the hint's epoch, but not grantable to this worker yet. Either the
    task is quarantined and the worker is not idle, or the worker runs a quarantined task.
    ``remaining``: QUEUED and grantable, but the payloads of the grants fill the reply.
    ``again``: how many of the grants were made by an earlier send of the same claim.
    """

    grants: tuple[Grant, ...] = ()
    deferred: frozenset[UUID] = frozenset()
    remaining: frozenset[UUID] = frozenset()
    again: int = field(default=0, compare=False)

    @classmethod
    def merged(cls, parts: Sequence[Claimed]) -> Claimed:
        """Return the result of claims for parts of the hints as that of one claim."""
        return cls(
            grants=tuple(grant for part in parts for grant in part.grants),
            deferred=frozenset(task_id for part in parts for task_id in part.deferred),
            remaining=frozenset(task_id for part in parts for task_id in part.remaining),
            again=sum(part.again for part in parts),
        )


@dataclass(frozen=True, slots=True)
class Success:
    """An attempt that succeeded; ``result`` is JSON text."""

    task_id: UUID
    epoch: int
    result: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that did not succeed; ``reason``: FAILED, TIMED_OUT, DISCARDED or RELEASED.

    ``delay_seconds``: until the next attempt, if any. ``detail`` is JSON text. ``unhandled``:
    RELEASED because the worker has no handler for the name.
    """

    task_id: UUID
    epoch: int
    reason: Reason
    delay_seconds: float = 0.0
    detail: str | None = None
    unhandled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedAttempt(AttemptRef):
    """An attempt that the database records as RUNNING under this worker."""

    cancel_requested: bool
    claimed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReclaimedAttempt(AttemptRef):
    """An attempt of ``owner`` that a scheduler ended; ``state`` is the task's new state."""

    state: State
    reason: Reason
    owner: UUID
    claimed_at: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class Announcement:
    """A task name that a worker can run, with its handler's default limits."""

    name: str
    max_attempts: int | None
    timeout_seconds: float | None
