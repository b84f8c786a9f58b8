"""Check that Redis is left empty: S29."""

from __future__ import annotations

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.disturbance import undisturbed
from chaos.checker.invariants.violation import Violation
from chaos.history.history import History
from chaos.history.records import Bound
from chaos.history.rest import HintsAtRest

# Workers read a hint immediately, and ack it after one claim; more is for a crowded machine.
_CALM_SECONDS = 5.0


@invariant("S29", "the streams and consumer groups of Redis with the end of all tasks")
def hints_are_removed(history: History) -> list[Violation]:
    """Once every task is terminal, no stream keeps hints and no consumer group pending ones.

    They are gone within 5 s if no fault disturbed the run, else within T: the hints that a dead
    worker had read are moved to others first. A queue without a stream has none.
    """
    allowed = seconds_allowed(history.run.bound, calm=undisturbed(history))
    return [
        Violation(
            "S29",
            None,
            f"Redis held hints for {rest.waited_seconds:.1f} s after the end of all tasks"
            f" ({allowed:g} s allowed){_left(rest)}",
            (rest,),
        )
        for rest in history.hints_at_rest
        if rest.waited_seconds >= allowed
    ]


def seconds_allowed(bound: Bound, *, calm: bool) -> float:
    """Return how long hints may stay after the end of all tasks; ``calm``: without a fault."""
    return _CALM_SECONDS if calm else bound.seconds


def _left(rest: HintsAtRest) -> str:
    left = [
        f"{queue.entries} of queue {queue.queue} ({queue.pending} pending)"
        for queue in rest.queues
        if queue.entries or queue.pending
    ]
    return f", at last {', '.join(left)}" if left else ""
