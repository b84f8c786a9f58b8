"""What is kept of a run: its judgement and report, or why the harness failed to end it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from chaos.history import HistoryError
from chaos.report import files
from chaos.report.outcome import Outcome, outcome
from chaos.scenario import Scenario
from chaos.verdict import Judgement, check_file


@dataclass(frozen=True, slots=True)
class Report:
    """A judged run. ``directory`` has its history, and its logs if they were kept."""

    judgement: Judgement
    directory: Path
    seconds: float

    @property
    def outcome(self) -> Outcome:
        """What a list of runs says of it."""
        return outcome(self.judgement, seconds=self.seconds, directory=self.directory.name)


class RunFailed(Exception):
    """The harness itself failed, which proves nothing; ``outcome`` names the directory with what
    was recorded until then, ``reasons`` are lines of text.
    """

    def __init__(self, reasons: list[str], outcome: Outcome) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons
        self.outcome = outcome


def judge(directory: Path) -> Judgement:
    """The verdict on the history of a directory; raises as ``verdict.check_file``."""
    return check_file(directory / files.HISTORY)


def report(directory: Path, judgement: Judgement, seconds: float) -> Report:
    """Write the report of a judged run."""
    files.write_run(directory, judgement, seconds)
    return Report(judgement, directory, seconds)


def failure(
    scenario: Scenario,
    seed: int,
    mutant: str | None,
    directory: Path,
    error: Exception,
    took: float,
    arena: str = "live",
) -> RunFailed:
    """What was recorded until the harness failed is shown as far as it can be read."""
    reasons = _reasons(error)
    doubts = tuple(f"the harness failed: {reason}" for reason in reasons)
    try:
        judgement = judge(directory)
    except (HistoryError, OSError):
        failed = Outcome(
            scenario=scenario.id,
            seed=seed,
            verdict="unknown",
            arena=arena,
            mutant=mutant,
            seconds=took,
            directory=directory.name,
            doubts=doubts,
        )
        files.write_failure(directory, failed)
        return RunFailed(reasons, failed)
    verdict = "unknown" if judgement.verdict == "true" else judgement.verdict
    told = replace(judgement, verdict=verdict, doubts=(*doubts, *judgement.doubts))
    return RunFailed(reasons, files.write_run(directory, told, took))


def _reasons(error: BaseException) -> list[str]:
    """The leaves of an exception group, each as its lines."""
    if isinstance(error, BaseExceptionGroup):
        return [line for each in error.exceptions for line in _reasons(each)]
    return [f"{type(error).__name__}: {line}" for line in str(error).splitlines() or [""]]
