"""The task lifecycle: states, legal transitions, retries and backoff. Pure.

Rule 1: every decision about a state is defined here; ``store/`` implements the same in SQL, and
tests compare the two.
Rule 2: nothing here uses a clock, a database or a queue.

``epoch`` is the fencing token (Kleppmann 2016): +1 on entering RUNNING and on leaving it, and at no
other time, so an odd epoch means "owned". ``attempt`` counts claims. ``losses`` and ``handed_back``
(releases) count the attempts that ended through no fault of the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The state of a task. SUCCEEDED, FAILED (the dead letter) and CANCELLED are terminal."""

    SCHEDULED = "SCHEDULED"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Return whether the task has ended; only an explicit retry leads out of FAILED."""
        return self in TERMINAL


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class Reason(StrEnum):
    """Why a transition happened: the ``reason`` column of ``task_events``.

    Values are codes, for rows and logs. ``text`` is for people: REST, spans and diagrams.
    """

    SUBMITTED = "submitted"
    DISPATCHED = "dispatched"
    REPUBLISHED = "republished"
    CLAIMED = "claimed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    DISCARDED = "discarded"
    LOST = "lost"
    RELEASED = "handed_back"
    CANCEL_REQUESTED = "cancel_requested"
    CANCELLED = "cancelled"
    RETRIED = "retried"

    @property
    def text(self) -> str:
        """Return the reason in words."""
        return _REASON_TEXTS.get(self, self.value)


# Reasons whose text differs from their code.
_REASON_TEXTS = {
    Reason.REPUBLISHED: "hint published again",
    Reason.TIMED_OUT: "timed out",
    Reason.LOST: "lease lost",
    Reason.RELEASED: "handed back",
    Reason.CANCEL_REQUESTED: "cancel requested",
    Reason.RETRIED: "retried by hand",
}


# from -> to -> reasons. None: the task does not exist yet.
TRANSITIONS: dict[State | None, dict[State, frozenset[Reason]]] = {
    None: {State.SCHEDULED: frozenset({Reason.SUBMITTED})},
    State.SCHEDULED: {
        State.QUEUED: frozenset({Reason.DISPATCHED}),
        State.CANCELLED: frozenset({Reason.CANCELLED}),
    },
    State.QUEUED: {
        State.QUEUED: frozenset({Reason.REPUBLISHED}),
        State.RUNNING: frozenset({Reason.CLAIMED}),
        State.CANCELLED: frozenset({Reason.CANCELLED}),
    },
    State.RUNNING: {
        State.RUNNING: frozenset({Reason.CANCEL_REQUESTED}),
        State.SUCCEEDED: frozenset({Reason.SUCCEEDED}),
        State.SCHEDULED: frozenset({Reason.FAILED, Reason.TIMED_OUT, Reason.LOST, Reason.RELEASED}),
        State.FAILED: frozenset({Reason.FAILED, Reason.TIMED_OUT, Reason.DISCARDED, Reason.LOST}),
        State.CANCELLED: frozenset(
            {
                Reason.CANCELLED,
                Reason.FAILED,
                Reason.TIMED_OUT,
                Reason.DISCARDED,
                Reason.LOST,
                Reason.RELEASED,
            }
        ),
    },
    State.FAILED: {State.SCHEDULED: frozenset({Reason.RETRIED})},
    State.SUCCEEDED: {},
    State.CANCELLED: {},
}


def is_legal(source: State | None, target: State, reason: Reason) -> bool:
    """Return whether ``TRANSITIONS`` allows this transition for this reason."""
    return reason in TRANSITIONS[source].get(target, frozenset())


def epoch_step(source: State | None, target: State) -> int:
    """Return the increment of ``epoch``: 1 on entering and on leaving RUNNING, else 0."""
    return int((source is State.RUNNING) != (target is State.RUNNING))


@dataclass(frozen=True, slots=True)
class Counters:
    """A task's attempt counters and their limits."""

    attempt: int = 0
    losses: int = 0
    handed_back: int = 0
    max_attempts: int = 1
    max_losses: int = 3

    @property
    def used(self) -> int:
        """Return the number of attempts that count against ``max_attempts``."""
        return self.attempt - self.losses - self.handed_back

    @property
    def quarantined(self) -> bool:
        """Return whether the task was lost before and one more loss would make it FAILED.

        Such a task runs exclusively: if it crashes its worker, no other task is lost with it, and
        no other task can cause its last loss.
        """
        return self.losses > 0 and self.losses + 1 >= self.max_losses


def after_attempt(counters: Counters, reason: Reason, *, cancel_requested: bool) -> State:
    """Return the state after a RUNNING task's attempt ends for ``reason``.

    ``counters`` already include this end (a loss is in ``losses``). A success always stands: a
    cancel requested in the meantime is too late.
    """
    if reason is Reason.SUCCEEDED:
        return State.SUCCEEDED
    if cancel_requested:
        return State.CANCELLED
    if reason is Reason.DISCARDED:
        return State.FAILED
    if reason is Reason.LOST:
        poison = counters.losses >= counters.max_losses
        return State.FAILED if poison else State.SCHEDULED
    if reason is Reason.RELEASED:
        return State.SCHEDULED
    return State.FAILED if counters.used >= counters.max_attempts else State.SCHEDULED


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff: ``base_seconds * factor ** (n - 1)`` after the n-th failure, capped.

    ``jitter`` is the random share of the delay (0: none, 1: "full jitter", Brooker 2015).
    """

    base_seconds: float = 1.0
    factor: float = 2.0
    max_seconds: float = 300.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if self.base_seconds < 0 or self.factor < 1 or not 0 <= self.jitter <= 1:
            raise ValueError(f"need base_seconds >= 0, factor >= 1 and 0 <= jitter <= 1: {self}")

    def delay_seconds(self, failures: int, uniform: float) -> float:
        """Return the delay after ``failures`` (>= 1) failed attempts; ``uniform`` in [0, 1)."""
        try:
            full = min(self.max_seconds, self.base_seconds * self.factor ** (failures - 1))
        except OverflowError:
            full = self.max_seconds if self.base_seconds else 0.0
        return full * (1 - self.jitter * uniform)


def diagram() -> str:
    """Return ``TRANSITIONS`` as a Mermaid state diagram, which the README includes verbatim."""
    lines = ["stateDiagram-v2"]
    for source, targets in TRANSITIONS.items():
        for target, reasons in targets.items():
            label = " / ".join(sorted(reason.text for reason in reasons))
            lines.append(f"    {source or '[*]'} --> {target}: {label}")
    lines += [f"    {state} --> [*]" for state in (State.SUCCEEDED, State.CANCELLED)]
    return "\n".join(lines)
