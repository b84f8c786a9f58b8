"""Write what is kept of a run: its judgement and report, or why the harness failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from chaos.checker.verdict import Judgement, check_file
from chaos.errors import EdgeRefused
from chaos.history.history import HistoryError
from chaos.report import files
from chaos.report.outcome import Outcome
from chaos.run.spec import RunSpec

# Begins the doubt of a run in which the harness noticed its own mistake.
REFUSED = "the harness refused"


class RunFailed(Exception):
    """The harness itself failed, which proves nothing about the system.

    ``outcome`` names the directory with what was recorded until then; ``reasons`` are lines of
    text, the first of which says why. All are in the file ``failure.txt`` there.
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
    leaves = list(_leaves(error))
    reasons = [line for leaf in leaves for line in _lines(leaf)]
    files.write(directory / files.FAILURE, "".join(f"{line}\n" for line in reasons).encode())
    doubts = tuple(f"{_blame(leaf)}: {_lines(leaf)[0]}" for leaf in leaves)
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


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield an error; of an exception group, its leaves."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _blame(error: BaseException) -> str:
    return REFUSED if isinstance(error, EdgeRefused) else "the harness failed"


def _lines(error: BaseException) -> list[str]:
    return [f"{type(error).__name__}: {line}" for line in str(error).splitlines() or [""]]
