"""What the runs of one command have in common: a line each, and the report of the suite."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import typer

from chaos.filing import RunFailed
from chaos.report import files, terminal
from chaos.report.outcome import Outcome
from chaos.report.suite import SuiteReport
from chaos.runs import RunStore
from chaos.scenario import Scenario
from chaos.verdict import Judgement

# Simulated runs end faster than a report of thousands of them is written.
_WRITE_SECONDS = 2.0


class Book:
    """Written anew as runs end: a suite that is ended early has its report so far. A single run is
    its own report.
    """

    def __init__(
        self, store: RunStore, todo: Sequence[tuple[Scenario, int]], mutant: str | None
    ) -> None:
        self._store = store
        self._started = time.monotonic()
        self._start = datetime.now(UTC).isoformat(timespec="seconds")
        self.planned = len(todo)
        seeds = sorted({seed for _, seed in todo})
        names = dict.fromkeys(scenario.id for scenario, _ in todo)
        told = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
        self._title = f"{', '.join(names)}: {told}" + (f", mutant {mutant}" if mutant else "")
        several = self.planned > 1
        self._directory = store.new_suite(seeds[0], mutant) if several else None
        self.outcomes: list[Outcome] = []
        self.report: Path | None = None
        self._written = 0.0
        self._write()

    @property
    def seconds(self) -> float:
        """Since the book was opened."""
        return time.monotonic() - self._started

    @property
    def all_true(self) -> bool:
        """Whether every run planned was made and is true."""
        true = [outcome for outcome in self.outcomes if outcome.verdict == "true"]
        return len(true) == self.planned

    def add(self, outcome: Outcome) -> None:
        """One more run is over."""
        self.outcomes.append(outcome)
        if self._directory is not None:
            self._store.point_latest(self._directory)
            self.report = self._directory / files.REPORT
            if time.monotonic() - self._written > _WRITE_SECONDS:
                self._write()
        elif outcome.directory:
            alone = self._store.root / outcome.directory
            files.write_junit(alone, self._suite())
            self.report = alone / files.REPORT if (alone / files.REPORT).exists() else None

    def close(self) -> None:
        """Print how many were true, and where the report is, which is then complete."""
        self._write()
        verdicts = [outcome.verdict for outcome in self.outcomes]
        typer.echo(
            f"{verdicts.count('true')} of {len(verdicts)} true, {verdicts.count('false')} false, "
            f"{verdicts.count('unknown')} unknown, in {self.seconds:.0f} s"
        )
        if self.report is not None:
            typer.echo(f"report: {self.report}")

    def _write(self) -> None:
        if self._directory is not None:
            files.write_suite(self._directory, self._suite())
            self._written = time.monotonic()

    def _suite(self) -> SuiteReport:
        return SuiteReport(
            title=self._title,
            started=self._start,
            planned=self.planned,
            runs=tuple(self.outcomes),
            seconds=self.seconds,
        )


def lines(judgement: Judgement, seconds: float, seed: int, directory: Path | None) -> list[str]:
    """A judged run: one line, one per planned fault, and details where it is not true."""
    told = [f"{terminal.line(judgement)}  {seconds:.0f} s"]
    if faults := terminal.faults(judgement):
        told.append(faults)
    if details := terminal.details(judgement):
        told += [details, f"  seed {seed}; history and logs: {directory}"]
    return told


def failure_lines(error: RunFailed, scenario: Scenario, seed: int, store: RunStore) -> list[str]:
    """A run that the harness could not bring to its end."""
    return [
        f"{scenario.id:<18} unknown  the harness failed (seed {seed})",
        *(f"  {line}" for line in error.reasons),
        f"  what was recorded: {store.root / (error.outcome.directory or '')}",
    ]
