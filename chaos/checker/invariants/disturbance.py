"""When faults were in force: how far an instant may then be from where it belongs.

Faults are recorded by the clock of the arena, the rest by that of the database. So this decides
about tolerances only, never about a law.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chaos.checker.invariants.told import configuration
from chaos.history.history import History
from chaos.history.records import Fault
from holdfast.model.lifecycle import State

# On a crowded machine, from the sending of a claim to its execution.
_CLAIM_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Disturbances:
    """The intervals, in arena seconds, in which faults or what they left behind delay messages."""

    intervals: tuple[tuple[float, float], ...]
    statement_seconds: float

    def claim_seconds(self, claimed: float) -> float:
        """Return how long the claim executed at this second may have been on its way.

        While nothing disturbs, hardly at all; else as long as a statement may take.
        """
        sent = claimed - self.statement_seconds
        disturbed = any(start <= claimed and sent <= end for start, end in self.intervals)
        return max(_CLAIM_SECONDS, self.statement_seconds) if disturbed else _CLAIM_SECONDS

    def around(self, at: float) -> tuple[float, float]:
        """Return when what is under way at this second may have begun, and when it must be over.

        A statement takes as long as its bound; while faults disturb, until they are over. Both
        seconds grow with ``at``.
        """
        touching = list(self._touching(at))
        begun = min([at, *(start for start, _ in touching)]) - self.statement_seconds
        return begun, max([at + self.statement_seconds, *(end for _, end in touching)])

    def disturbed(self, at: float) -> bool:
        """Return whether faults may delay what is under way at this second."""
        return any(True for _ in self._touching(at))

    def _touching(self, at: float) -> Iterator[tuple[float, float]]:
        for start, end in self.intervals:
            if start <= at + self.statement_seconds and at - self.statement_seconds <= end:
                yield start, end

    def any_before(self, at: float) -> bool:
        """Return whether any fault began before this second."""
        return any(start <= at for start, _ in self.intervals)


def undisturbed(history: History) -> bool:
    """Return whether every process lives on, owns what it runs, and knows what it did."""
    unknown = history.sometimes.get("statement_outcome_unknown")
    restarted = any(not end.planned for ends in history.exits.values() for end in ends)
    taken_back = any(
        event.from_state == State.RUNNING and event.actor.startswith("scheduler:")
        for events in history.events.values()
        for event in events
    )
    return not (history.faults or restarted or taken_back or (unknown and unknown.held))


def disturbances(history: History) -> Disturbances:
    """Return the disturbances of a run."""
    return history.view(_disturbances)


def span(history: History, records: Sequence[Fault]) -> tuple[float, float]:
    """Return the interval, in arena seconds, in which one fault delays messages.

    What was under way when it ended may arrive as late as a statement may take. A connection that
    was dropped silently may be used for the first time at any later instant.
    """
    if records[0].fault == "silent_drop":
        return min(record.at for record in records), math.inf
    ends = [record.at for record in records if record.type == "end"]
    seconds = configuration(history).statement_timeout_seconds
    return min(record.at for record in records), max(ends) + seconds if ends else math.inf


def _disturbances(history: History) -> Disturbances:
    seconds = configuration(history).statement_timeout_seconds
    return Disturbances(
        tuple(span(history, records) for records in history.faults.values()), seconds
    )
