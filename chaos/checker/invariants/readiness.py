"""Check that roles become ready: S27."""

from __future__ import annotations

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.violation import Violation
from chaos.history.history import History


@invariant("S27", "the readiness of each role with the absence of faults")
def ready_without_faults(history: History) -> list[Violation]:
    """Every role becomes ready within 30 s after its start and after the heal.

    Only the simulation records a role that does not: on a crowded machine real time proves nothing,
    so that the other arenas leave such a run undecided.
    """
    return [
        Violation(
            "S27",
            None,
            f"{role.actor} was not ready though no fault disturbed it"
            + (f"; it was started {role.starts} times more" if role.starts else ""),
            (role,),
        )
        for role in history.unready
    ]
