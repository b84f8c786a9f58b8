"""What one tier said of one mutant."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from chaos.mutants.generated import GeneratedMutant


class Tier(StrEnum):
    """Where a mutant is tried."""

    SIMULATION = "simulation"
    TESTS = "tests"


class Fate(StrEnum):
    """How a trial ended. Not executed: no scenario or test of the tier runs the changed lines."""

    KILLED = "killed"
    SURVIVED = "survived"
    NOT_EXECUTED = "not executed"
    DOES_NOT_BUILD = "does not build"


@dataclass(frozen=True, slots=True, kw_only=True)
class MutantTrial:
    """One mutant in one tier.

    ``by``: the invariants or the test that killed it, ``timeout``, or why it was not judged.
    ``tried``: the runs or tests that were started; ``seconds``: of real time.
    """

    mutant: str
    tier: Tier
    fate: Fate
    by: str = ""
    tried: int = 0
    seconds: float = 0.0


class TierRunner(Protocol):
    """Tries mutants in one tier."""

    @property
    def tier(self) -> Tier: ...

    async def attempt(self, mutant: GeneratedMutant, tree: Path) -> MutantTrial:
        """Try a mutant that is planted in ``tree``."""
        ...
