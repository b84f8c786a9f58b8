"""The hunt for mutants, whatever the arena: who counts as killed, rows, the table at the end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import typer

from chaos.mutants import Mutant
from chaos.report.outcome import Outcome

_SAFETY_DRAIN_SECONDS = 10.0
_COLUMNS = "{:<40} {:<32} {:<20} {:>5} {:>5}"


@dataclass(frozen=True, slots=True)
class Start:
    """Runs of one mutant under one seed after the other, until it was killed or seeds ran out.

    ``runs``: how many, ``seed``: of the last one. ``killers``: the invariants that the mutant
    names and that were violated in it; ``others``: the rest. ``doubts``: why it proved nothing,
    ``trouble``: why it was not judged at all.
    """

    seed: int
    runs: int = 1
    killers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    doubts: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Hunted:
    """What became of one mutant in all its starts (none: it is left to the other arena)."""

    mutant: Mutant
    starts: tuple[Start, ...]
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether every start killed it."""
        return bool(self.starts) and all(start.killers for start in self.starts)

    @property
    def due(self) -> bool:
        """Whether it must be killed: it is hunted here, and no second guard covers it."""
        return bool(self.starts) and not self.mutant.covered_by

    @property
    def runs(self) -> float:
        """Median of the runs of a start."""
        return statistics.median(start.runs for start in self.starts) if self.starts else 0

    @property
    def outcome(self) -> str:
        """The killers, or why there are none."""
        if not self.starts:
            return "left to simulation"
        if self.killed:
            return " ".join(dict.fromkeys(name for s in self.starts for name in s.killers))
        last = next(start for start in self.starts if not start.killers)
        if last.trouble:
            return "not judged"
        if last.others:
            return f"SURVIVED ({' '.join(last.others)})"
        if self.mutant.covered_by:
            return "covered"
        return "SURVIVED (unknown)" if last.doubts else "SURVIVED"

    @property
    def remark(self) -> str:
        """Under which seeds it was killed, or why it was not."""
        if not self.starts:
            return self.mutant.unlive
        seeds = ", ".join(str(start.seed) for start in self.starts)
        told = f"seed {seeds}" if len(self.starts) == 1 else f"seeds {seeds}"
        last = self.starts[-1]
        return told if last.killers else last.trouble or last.doubts or told

    def row(self) -> str:
        """One line of the table."""
        name, scenario, runs = self.mutant.name, self.mutant.scenario, f"{self.runs:g}"
        return _COLUMNS.format(name, scenario, self.outcome, runs, f"{self.seconds:.0f}")


class Board:
    """Prints what becomes of each mutant, and at the end the table in the order of ``mutants``."""

    def __init__(self, mutants: Sequence[Mutant]) -> None:
        self._mutants = mutants
        self._all: dict[str, Hunted] = {}
        self._started = time.monotonic()

    def add(self, hunted: Hunted) -> None:
        """One more is through."""
        self._all[hunted.mutant.name] = hunted
        typer.echo(f"{hunted.row()}  {hunted.remark}".rstrip())

    def close(self) -> bool:
        """The table; whether each that must be killed was killed."""
        typer.echo(f"\n{_COLUMNS.format('mutant', 'scenario', 'killed by', 'runs', 's')}")
        through = [self._all[m.name] for m in self._mutants if m.name in self._all]
        for hunted in through:
            typer.echo(hunted.row())
        due = [hunted for hunted in through if hunted.due]
        killed = sum(hunted.killed for hunted in due)
        covered = sum(bool(hunted.starts) for hunted in through) - len(due)
        hidden = len(through) - len(due) - covered
        rest = f", {hidden} left to simulation" if hidden else ""
        typer.echo(
            f"{killed} of {len(due)} killed, {covered} covered by a second guard{rest}, "
            f"in {time.monotonic() - self._started:.0f} s"
        )
        return killed == len(due) and len(through) == len(self._mutants)


async def pursue(seeds: Iterable[int], shoot: Callable[[int], Awaitable[Start]]) -> Start:
    """Seed after seed (at least one), until the mutant is killed."""
    last: Start | None = None
    for n, seed in enumerate(seeds, start=1):
        last = replace(await shoot(seed), runs=n)
        if last.killers:
            break
    if last is None:
        raise ValueError("no seed to hunt under")
    return last


def judged(mutant: Mutant, outcome: Outcome) -> Start:
    """What one run means for the mutant."""
    broken = outcome.laws or {}
    return Start(
        outcome.seed,
        killers=tuple(name for name in broken if name in mutant.killers),
        others=tuple(name for name in broken if name not in mutant.killers),
        doubts="; ".join(outcome.doubts),
    )


def drain_seconds(mutant: Mutant) -> float | None:
    """A law of safety that a mutant breaks is broken soon; only for L1 must all of T pass."""
    return _SAFETY_DRAIN_SECONDS if any(law[0] == "S" for law in mutant.killers) else None
