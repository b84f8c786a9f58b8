"""What a run is made from, and what an arena makes of it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from chaos.history.records import ArenaName
from chaos.mutants import SOURCES
from chaos.report.outcome import Outcome
from chaos.scenario.scenario import Scenario


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One run: a scenario under a seed in an arena.

    ``runs``: root of the run store. ``keep``: keep also what only a failed run needs. ``mutant``:
    the fault planted in a copy of the sources, by name. ``drain_seconds``: limit of the drain
    (None: T of L1); tasks that are still open then stay undecided.
    """

    arena: ArenaName
    scenario: Scenario
    seed: int
    runs: Path
    keep: bool = False
    mutant: str | None = None
    drain_seconds: float | None = None

    def drawn(self) -> RunSpec:
        """Replace a storm by the concrete scenario that the seed draws from it."""
        plain = self.arena is ArenaName.COMPOSE
        return replace(self, scenario=self.scenario.drawn(self.seed, plain=plain))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A judged run. ``lines``: the text that the command line prints."""

    outcome: Outcome
    lines: tuple[str, ...]


class Arena(Protocol):
    """A place where runs happen."""

    async def run(self, spec: RunSpec) -> RunResult:
        """Run the spec, judge it and write its report.

        Raises:
            RunFailed: the harness itself failed, which proves nothing about the system.
        """


def sources_commit() -> str | None:
    """Return the commit of the sources; None outside a repository or before its first commit."""
    argv = ["git", "-C", str(SOURCES), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        found = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None
