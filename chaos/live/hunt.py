"""The hunt for mutants: each guard switched off in turn, until its scenario ends false."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from chaos import scenario as scenarios
from chaos.live.run import Order, Report, run
from chaos.live.topology import Foundation
from chaos.mutants import MUTANTS, Mutant, find, plant

_COLUMNS = "{:<32} {:<26} {:<26} {:>4} {:>5}"


@dataclass(frozen=True, slots=True)
class Hunted:
    """What became of one mutant after ``runs`` runs.

    ``killers``: the invariants that it names and that were violated; ``others``: the rest.
    ``trouble``: why the last run was not judged at all.
    """

    mutant: Mutant
    runs: int
    seconds: float
    killers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
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
        return f"covered: {self.mutant.pair}" if self.mutant.covered_by else "SURVIVED"

    def row(self) -> str:
        """One line of the table."""
        name, scenario = self.mutant.name, self.mutant.scenario
        return _COLUMNS.format(name, scenario, self.outcome, self.runs, f"{self.seconds:.0f}")


class Hunt:
    """Runs mutants, ``jobs`` at a time, each lane on servers of its own."""

    def __init__(self, runs: Path, seed: int, *, keep: bool, jobs: int = 1) -> None:
        self._runs = runs.absolute()
        self._seed = seed
        self._keep = keep
        self._jobs = jobs
        self._hunted: list[Hunted] = []

    async def run(self, names: Sequence[str]) -> bool:
        """Hunt these mutants (none named: all); whether each that must be killed was killed.

        Raises:
            MutantError: no such mutant, or one that does not fit the sources any more.
        """
        started = time.monotonic()
        chosen = [find(name) for name in names or MUTANTS]
        waiting = deque(chosen)
        async with asyncio.TaskGroup() as lanes:
            for _ in range(min(self._jobs, len(chosen))):
                lanes.create_task(self._lane(waiting))
        places = {mutant.name: place for place, mutant in enumerate(chosen)}
        self._hunted.sort(key=lambda hunted: places[hunted.mutant.name])
        typer.echo(f"\n{_COLUMNS.format('mutant', 'scenario', 'killed by', 'runs', 's')}")
        for hunted in self._hunted:
            typer.echo(hunted.row())
        due = [hunted for hunted in self._hunted if not hunted.mutant.covered_by]
        killed = sum(hunted.as_said for hunted in due)
        typer.echo(
            f"{killed} of {len(due)} killed, {len(self._hunted) - len(due)} covered by a second "
            f"guard, in {time.monotonic() - started:.0f} s"
        )
        return killed == len(due)

    async def _lane(self, waiting: deque[Mutant]) -> None:
        async with Foundation.laid() as foundation:
            while waiting:
                hunted = await self._hunt(waiting.popleft(), foundation)
                self._hunted.append(hunted)
                typer.echo(f"{hunted.row()}  {hunted.trouble}".rstrip())

    async def _hunt(self, mutant: Mutant, foundation: Foundation) -> Hunted:
        """One mutant: seed after seed until it is killed, or until it has survived them all."""
        started = time.monotonic()
        tree = foundation.directory / f"mutant-{mutant.name}"
        await asyncio.to_thread(plant, mutant, foundation.sources, tree)
        hunted = Hunted(mutant, 0, 0.0)
        for n in range(1 if mutant.covered_by else mutant.runs_max):
            killers, others, trouble = await self._once(mutant, self._seed + n, tree, foundation)
            seconds = time.monotonic() - started
            hunted = Hunted(mutant, n + 1, seconds, killers, others, trouble)
            if killers:
                break
        return hunted

    async def _once(
        self, mutant: Mutant, seed: int, tree: Path, foundation: Foundation
    ) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        scenario = scenarios.find(mutant.scenario)
        order = Order(scenario, seed, self._runs, keep=self._keep, sources=tree, mutant=mutant.name)
        try:
            report = await run(order, foundation)
        except Exception as error:  # noqa: BLE001  the other mutants are to be hunted all the same
            return (), (), "; ".join(_reasons(error))
        return _violated(mutant, report)


def _violated(mutant: Mutant, report: Report) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """The named killers, the other laws that were broken, and what else is to be told."""
    broken = dict.fromkeys(violation.invariant for violation in report.judgement.violations)
    killers = tuple(name for name in broken if name in mutant.killers)
    others = tuple(name for name in broken if name not in mutant.killers)
    doubts = "" if broken else "; ".join(report.judgement.doubts)
    return killers, others, f"doubts: {doubts}" if doubts else ""


def _reasons(error: BaseException) -> list[str]:
    """The leaves of an exception group."""
    if isinstance(error, BaseExceptionGroup):
        return [line for each in error.exceptions for line in _reasons(each)]
    return [f"{type(error).__name__}: {error}"]
