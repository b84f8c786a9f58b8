"""Many runs on one foundation: scenarios one after the other, and their common report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import typer

from chaos.live.run import Order, RunFailed, run
from chaos.live.topology import Foundation
from chaos.mutants import Mutant, find, plant
from chaos.report import files, terminal
from chaos.report.outcome import Outcome
from chaos.report.suite import SuiteReport
from chaos.runs import RunStore
from chaos.scenario import Scenario


class Suite:
    """Runs in order; histories and reports go to ``runs``. Prints one line per run as it ends."""

    def __init__(self, runs: Path, *, keep: bool) -> None:
        self._store = RunStore(runs.absolute())
        self._keep = keep

    async def run(self, todo: Sequence[tuple[Scenario, int]], mutant: str | None) -> bool:
        """Run (scenario, seed) pairs; whether every verdict is true. Raises MutantError."""
        chosen = find(mutant) if mutant else None
        async with Foundation.laid() as foundation:
            planted = _plant(chosen, foundation) if chosen else None
            book = _Book(self._store, todo, mutant)
            for scenario, seed in todo:
                book.add(await self._one(foundation, scenario, seed, planted))
        verdicts = [outcome.verdict for outcome in book.outcomes]
        typer.echo(
            f"{verdicts.count('true')} of {len(verdicts)} true, {verdicts.count('false')} false, "
            f"{verdicts.count('unknown')} unknown, in {book.seconds:.0f} s"
        )
        if book.report is not None:
            typer.echo(f"report: {book.report}")
        return verdicts.count("true") == len(verdicts)

    async def _one(
        self,
        foundation: Foundation,
        scenario: Scenario,
        seed: int,
        planted: tuple[Mutant, Path] | None,
    ) -> Outcome:
        """One run, printed; unknown when the harness itself failed, which proves nothing."""
        order = Order(
            scenario,
            seed,
            self._store.root,
            keep=self._keep,
            sources=planted[1] if planted else None,
            mutant=planted[0].name if planted else None,
        )
        try:
            report = await run(order, foundation)
        except RunFailed as error:  # the other scenarios are to be run all the same
            typer.echo(f"{scenario.id:<18} unknown  the harness failed (seed {seed})")
            for line in error.reasons:
                typer.echo(f"  {line}")
            typer.echo(f"  what was recorded: {self._store.root / (error.outcome.directory or '')}")
            return error.outcome
        typer.echo(f"{terminal.line(report.judgement)}  {report.seconds:.0f} s")
        if faults := terminal.faults(report.judgement):
            typer.echo(faults)
        if details := terminal.details(report.judgement):
            typer.echo(details)
            typer.echo(f"  seed {seed}; history and logs: {report.directory}")
        return report.outcome


class _Book:
    """What the runs of one command have in common, written anew after each of them: a suite that
    is ended early has its report so far. A single run is its own report.
    """

    def __init__(
        self, store: RunStore, todo: Sequence[tuple[Scenario, int]], mutant: str | None
    ) -> None:
        self._store = store
        self._started = time.monotonic()
        self._start = datetime.now(UTC).isoformat(timespec="seconds")
        self._planned = len(todo)
        seeds = sorted({seed for _, seed in todo})
        names = dict.fromkeys(scenario.id for scenario, _ in todo)
        told = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
        self._title = f"{', '.join(names)}: {told}" + (f", mutant {mutant}" if mutant else "")
        several = self._planned > 1
        self._directory = store.new_suite(seeds[0], mutant) if several else None
        self.outcomes: list[Outcome] = []
        self.report: Path | None = None
        if self._directory is not None:
            files.write_suite(self._directory, self._suite())

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def add(self, outcome: Outcome) -> None:
        """One more run is over."""
        self.outcomes.append(outcome)
        if self._directory is not None:
            files.write_suite(self._directory, self._suite())
            self._store.point_latest(self._directory)
            self.report = self._directory / files.REPORT
        elif outcome.directory:
            alone = self._store.root / outcome.directory
            files.write_junit(alone, self._suite())
            self.report = alone / files.REPORT if (alone / files.REPORT).exists() else None

    def _suite(self) -> SuiteReport:
        return SuiteReport(
            title=self._title,
            started=self._start,
            planned=self._planned,
            runs=tuple(self.outcomes),
            seconds=self.seconds,
        )


def _plant(mutant: Mutant, foundation: Foundation) -> tuple[Mutant, Path]:
    tree = foundation.directory / f"mutant-{mutant.name}"
    return mutant, tree if tree.exists() else plant(mutant, foundation.sources, tree)
