"""The hunt for mutants: each guard switched off in turn, until its scenario ends false."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from chaos import scenario as scenarios
from chaos.filing import Report, RunFailed
from chaos.live.run import Order, run
from chaos.live.topology import Foundation
from chaos.mutants import MUTANTS, Mutant, find, plant

_SAFETY_DRAIN_SECONDS = 10.0
_COLUMNS = "{:<40} {:<32} {:<20} {:>4} {:>5}"


@dataclass(frozen=True, slots=True)
class Hunted:
    """What became of one mutant after ``runs`` runs.

    ``killers``: the invariants that it names and that were violated; ``others``: the rest.
    ``doubts``: why the last run proved nothing, ``trouble``: why it was not judged at all.
    """

    mutant: Mutant
    runs: int
    seconds: float
    killers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    doubts: str = ""
    trouble: str = ""

    @property
    def as_said(self) -> bool:
        """Whether it was killed; one that is covered may survive (``outcome`` shows which)."""
        return bool(self.killers or self.mutant.covered_by)

    @property
    def outcome(self) -> str:
        """The killers, or why there are none."""
        if self.killers:
            return " ".join(self.killers)
        if self.trouble:
            return "not judged"
        if self.others:
            return f"SURVIVED ({' '.join(self.others)})"
        if self.mutant.covered_by:
            return "covered"
        return "SURVIVED (unknown)" if self.doubts else "SURVIVED"

    def row(self) -> str:
        """One line of the table."""
        name, scenario = self.mutant.name, self.mutant.scenario
        return _COLUMNS.format(name, scenario, self.outcome, self.runs, f"{self.seconds:.0f}")


class Hunt:
    """Runs mutants one after the other."""

    def __init__(self, runs: Path, seed: int, *, keep: bool) -> None:
        self._runs = runs.absolute()
        self._seed = seed
        self._keep = keep

    async def run(self, names: Sequence[str]) -> bool:
        """Hunt these mutants (none named: all); whether each that must be killed was killed.

        Raises:
            MutantError: no such mutant, or one that does not fit the sources any more.
        """
        started = time.monotonic()
        chosen = [find(name) for name in names or MUTANTS]
        all_hunted: list[Hunted] = []
        async with Foundation.laid() as foundation:
            for mutant in chosen:
                hunted = await self._hunt(mutant, foundation)
                all_hunted.append(hunted)
                typer.echo(f"{hunted.row()}  {hunted.trouble or hunted.doubts}".rstrip())
        typer.echo(f"\n{_COLUMNS.format('mutant', 'scenario', 'killed by', 'runs', 's')}")
        for hunted in all_hunted:
            typer.echo(hunted.row())
        due = [hunted for hunted in all_hunted if not hunted.mutant.covered_by]
        killed = sum(hunted.as_said for hunted in due)
        typer.echo(
            f"{killed} of {len(due)} killed, {len(all_hunted) - len(due)} covered by a second "
            f"guard, in {time.monotonic() - started:.0f} s"
        )
        return killed == len(due)

    async def _hunt(self, mutant: Mutant, foundation: Foundation) -> Hunted:
        """Seed after seed until it is killed or has survived all; one that is covered: once."""
        started = time.monotonic()
        tree = foundation.directory / f"mutant-{mutant.name}"
        await asyncio.to_thread(plant, mutant, foundation.sources, tree)
        hunted = Hunted(mutant, 0, 0.0)
        for n in range(1 if mutant.covered_by else mutant.runs_max):
            hunted = await self._once(mutant, self._seed + n, tree, foundation)
            seconds = time.monotonic() - started
            hunted = replace(hunted, runs=n + 1, seconds=seconds)
            if hunted.killers:
                break
        return hunted

    async def _once(self, mutant: Mutant, seed: int, tree: Path, foundation: Foundation) -> Hunted:
        scenario = scenarios.find(mutant.scenario)
        order = Order(
            scenario,
            seed,
            self._runs,
            keep=self._keep,
            sources=tree,
            mutant=mutant.name,
            drain_seconds=_drain_seconds(mutant),
        )
        try:
            report = await run(order, foundation)
        except RunFailed as error:  # the other mutants are to be hunted all the same
            return Hunted(mutant, 1, 0.0, trouble="; ".join(error.reasons))
        return _judged(mutant, report)


def _drain_seconds(mutant: Mutant) -> float | None:
    """A law of safety that a mutant breaks is broken soon; only for L1 must all of T pass."""
    return _SAFETY_DRAIN_SECONDS if any(law[0] == "S" for law in mutant.killers) else None


def _judged(mutant: Mutant, report: Report) -> Hunted:
    broken = dict.fromkeys(violation.invariant for violation in report.judgement.violations)
    return Hunted(
        mutant,
        runs=1,
        seconds=report.seconds,
        killers=tuple(name for name in broken if name in mutant.killers),
        others=tuple(name for name in broken if name not in mutant.killers),
        doubts="; ".join(report.judgement.doubts),
    )
