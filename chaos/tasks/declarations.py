"""What the workload's handlers declare: limits and back-off by task name.

Pure, so that the workload can plan by it and the checker can judge by it. Each kind of effect has
three names: a usual one; a steady one, whose delays have no jitter; and a brief one, with few
attempts and a short timeout. Back-offs are capped at two seconds, which T (chaos/checker/bounds.py)
waits for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Declaration:
    """What one handler declares. A limit of None is left to the settings of its worker.

    Delay after the n-th failure, in seconds: ``base_seconds * factor ** (n - 1)``, at most
    ``max_seconds``, of which a random share of at most ``jitter`` is subtracted.
    """

    name: str
    effect: str
    max_attempts: int | None
    timeout_seconds: float | None
    base_seconds: float
    factor: float
    max_seconds: float
    jitter: float

    def longest_delay_seconds(self, failures: int) -> float:
        """Return the delay after ``failures`` (>= 1) failed attempts, without jitter."""
        return min(self.max_seconds, self.base_seconds * self.factor ** (failures - 1))


_DECLARED = (
    Declaration("chaos_ledger", "ledger", 6, 5.0, 0.2, 2.0, 2.0, 0.5),
    Declaration("chaos_ledger_steady", "ledger", 9, 6.0, 0.3, 1.5, 1.2, 0.0),
    Declaration("chaos_ledger_brief", "ledger", 2, 1.1, 0.1, 3.0, 1.6, 1.0),
    Declaration("chaos_sql", "sql", None, 5.5, 0.25, 2.0, 1.8, 0.4),
    Declaration("chaos_sql_steady", "sql", 12, 6.5, 0.15, 2.5, 1.4, 0.0),
    Declaration("chaos_sql_brief", "sql", 3, 1.3, 0.4, 1.0, 0.4, 0.8),
    Declaration("chaos_external", "external", 7, 4.5, 0.2, 1.8, 1.9, 0.6),
    Declaration("chaos_external_steady", "external", 11, 7.0, 0.35, 1.2, 1.0, 0.0),
    Declaration("chaos_external_brief", "external", 1, 1.2, 0.05, 4.0, 1.5, 0.9),
    # A plain function, only for scenarios that ask for it (workload.handlers).
    Declaration("chaos_thread", "thread", 8, 5.0, 0.3, 2.0, 1.7, 0.3),
)

# Handlers with an external effect ask for this delay when the sink does not respond.
SINK_RETRY_SECONDS = 0.2

DECLARATIONS: Mapping[str, Declaration] = MappingProxyType({each.name: each for each in _DECLARED})


def names_of(effect: str) -> tuple[str, ...]:
    """Return the names of the tasks with this kind of effect, the usual one first."""
    return tuple(each.name for each in _DECLARED if each.effect == effect)
