"""Collect the runs of one command: the lines of each, and the report of the suite."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import typer

from chaos.checker.verdict import Judgement
from chaos.report import files, terminal
from chaos.report.outcome import Outcome
from chaos.report.suite import SuiteReport
from chaos.run.artifacts import RunFailed
from chaos.run.spec import RunSpec
from chaos.run.store import RunStore

# Writing the report of thousands of runs takes longer than simulating one of them.
_WRITE_SECONDS = 2.0


class SuiteRecorder:
    """Writes the report of ``specs`` (at least one, all with the same mutant) as their runs end.

    An interrupted suite keeps the report so far. A single run has its own report instead.
    """

    def __init__(self, store: RunStore, specs: Sequence[RunSpec]) -> None:
        self._store = store
        self._started = time.monotonic()
        self._start = datetime.now(UTC).isoformat(timespec="seconds")
        self.planned = len(specs)
        seeds = sorted({spec.seed for spec in specs})
        names = dict.fromkeys(spec.scenario.id for spec in specs)
        mutant = specs[0].mutant
        drawn = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
        self._title = f"{', '.join(names)}: {drawn}" + (f", mutant {mutant}" if mutant else "")
        several = self.planned > 1
        self._directory = store.new_suite(seeds[0], mutant) if several else None
        self.outcomes: list[Outcome] = []
        self.report: Path | None = None
        self._written = 0.0
        self._write()

    @property
    def seconds(self) -> float:
        """Seconds since the suite began."""
        return time.monotonic() - self._started

    @property
    def all_true(self) -> bool:
        """Whether every planned run is over and true."""
        true = [outcome for outcome in self.outcomes if outcome.verdict == "true"]
        return len(true) == self.planned

    def add(self, outcome: Outcome) -> None:
        """Record the outcome of a run."""
        self.outcomes.append(outcome)
        if self._directory is not None:
            self._store.point_latest(self._directory)
            self.report = self._directory / files.REPORT
            if time.monotonic() - self._written > _WRITE_SECONDS:
                self._write()
        elif outcome.directory:
            directory = self._store.root / outcome.directory
            files.write_junit(directory, self._suite())
            self.report = directory / files.REPORT if (directory / files.REPORT).exists() else None

    def close(self) -> None:
        """Complete the report; print how many runs were true and where the report is."""
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


def run_lines(
    judgement: Judgement, seconds: float, seed: int, directory: Path | None
) -> tuple[str, ...]:
    """Describe a judged run: one line, one per planned fault, and details unless it is true."""
    lines = [f"{terminal.line(judgement)}  {seconds:.0f} s"]
    if faults := terminal.faults(judgement):
        lines.append(faults)
    if details := terminal.details(judgement):
        lines += [details, f"  seed {seed}; history and logs: {directory}"]
    return tuple(lines)


def failure_lines(error: RunFailed, spec: RunSpec) -> tuple[str, ...]:
    """Describe a run during which the harness failed: the first line of why, not its logs.

    What was recorded until then may violate an invariant.
    """
    outcome = error.outcome
    rest = len(error.reasons) - 1
    more = f" ({rest} more lines in {files.FAILURE})" if rest else ""
    head = f"{spec.scenario.id:<32}{outcome.verdict:<7}  seed {spec.seed}"
    return (
        f"{head}: the harness failed: {error.reasons[0]}{more}",
        *(f"  {law} violated {count} times" for law, count in (outcome.laws or {}).items()),
        f"  what was recorded: {spec.runs / (outcome.directory or '')}",
    )
