"""The life of a task after its submit: its counters, its limits, and the state after each end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self


class Ending(StrEnum):
    """How an attempt ends, by the codes of the log."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    DISCARDED = "discarded"
    LOST = "lost"
    HANDED_BACK = "handed_back"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Counters and limits of a task; each method returns the task after one more step.

    ``attempts`` counts claims. ``failures``: the attempts that ended through the task's own fault,
    which alone count against ``max_attempts``.
    """

    max_attempts: int
    max_losses: int
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    handed_back: int = 0
    cancel_requested: bool = False
    state: str = "SCHEDULED"

    def claimed(self) -> Self:
        return replace(self, attempts=self.attempts + 1, state="RUNNING")

    def cancel_asked(self) -> Self:
        """While it runs, a cancel is a request; before, it is carried out immediately."""
        state = self.state if self.state == "RUNNING" else "CANCELLED"
        return replace(self, cancel_requested=True, state=state)

    def ended(self, end: Ending) -> Self:
        counted = replace(
            self,
            failures=self.failures + (end in {Ending.FAILED, Ending.TIMED_OUT, Ending.DISCARDED}),
            losses=self.losses + (end is Ending.LOST),
            handed_back=self.handed_back + (end is Ending.HANDED_BACK),
        )
        return replace(counted, state=_state_after(counted, end))

    def retried(self) -> Self:
        """After a retry by hand a dead letter may fail, and may be lost, at least once more."""
        return replace(
            self,
            max_attempts=max(self.max_attempts, self.failures + 1),
            max_losses=max(self.max_losses, self.losses + 1),
            cancel_requested=False,
            state="SCHEDULED",
        )


def _state_after(life: Life, end: Ending) -> str:
    """Return the state after an attempt ended; ``life`` counts that end already."""
    if end is Ending.SUCCEEDED:
        return "SUCCEEDED"  # a cancel that was requested meanwhile came too late
    if life.cancel_requested or end is Ending.CANCELLED:
        return "CANCELLED"
    used_up = life.failures >= life.max_attempts and end in {
        Ending.FAILED,
        Ending.TIMED_OUT,
    }
    poison = life.losses >= life.max_losses and end is Ending.LOST
    return "FAILED" if end is Ending.DISCARDED or used_up or poison else "SCHEDULED"
