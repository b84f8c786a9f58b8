"""Write what is kept of a run: its judgement and report, or why the harness failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from chaos.checker.verdict import Judgement, check_file
from chaos.history.history import HistoryError
from chaos.report import files
from chaos.report.outcome import Outcome
from chaos.run.spec import RunSpec


class RunFailed(Exception):
    """The harness itself failed, which proves nothing about the system.

    ``outcome`` names the directory with what was recorded until then; ``reasons`` are lines of
    text.
    """

    def __init__(self, reasons: list[str], outcome: Outcome) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons
        self.outcome = outcome


def judge(directory: Path) -> Judgement:
    """Judge the history in a directory; raises as ``verdict.check_file``."""
    return check_file(directory / files.HISTORY)


def failure(spec: RunSpec, directory: Path, error: Exception, seconds: float) -> RunFailed:
    """Report what was recorded until the harness failed, as far as it can be read."""
    reasons = _reasons(error)
    doubts = tuple(f"the harness failed: {reason}" for reason in reasons)
    try:
        judgement = judge(directory)
    except (HistoryError, OSError):
        failed = Outcome(
            scenario=spec.scenario.id,
            seed=spec.seed,
            verdict="unknown",
            arena=spec.arena,
            mutant=spec.mutant,
            seconds=seconds,
            directory=directory.name,
            doubts=doubts,
        )
        files.write_failure(directory, failed)
        return RunFailed(reasons, failed)
    verdict = "unknown" if judgement.verdict == "true" else judgement.verdict
    doubtful = replace(judgement, verdict=verdict, doubts=(*doubts, *judgement.doubts))
    return RunFailed(reasons, files.write_run(directory, doubtful, seconds))


def _reasons(error: BaseException) -> list[str]:
    """Return the lines of an error; of an exception group, those of its leaves."""
    if isinstance(error, BaseExceptionGroup):
        return [line for each in error.exceptions for line in _reasons(each)]
    return [f"{type(error).__name__}: {line}" for line in str(error).splitlines() or [""]]
