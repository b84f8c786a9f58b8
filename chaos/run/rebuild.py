"""Find kept runs, rebuild their reports, and print the story of a task."""

from __future__ import annotations

from pathlib import Path

from chaos.checker.verdict import check_file
from chaos.history.history import HistoryError
from chaos.report import files
from chaos.report.story import story
from chaos.run.store import RunNotFound, RunStore, read


def find(name: str | None, runs: Path) -> Path:
    """Resolve what a user names: a path of a directory or history file, a name in the run store,
    or (None) the latest run.

    Raises:
        RunNotFound: there is none.
    """
    if name and (given := Path(name)).exists():
        return given.parent if given.name == files.REPORT else given
    return RunStore(runs).find(name)


def rebuild(place: Path) -> Path:
    """Write the page of a run or suite again, and missing pages of its runs; return its path.

    The page of a history outside the store is written beside it, under its own name.

    Raises:
        HistoryError: the history cannot be judged.
        OSError: a file is missing or cannot be written.
    """
    if place.is_file():
        name = files.REPORT if place.name == files.HISTORY else f"{place.stem}.html"
        return _page(place, place.with_name(name), read(place.parent).seconds)
    kept = read(place)
    if kept.suite is None:
        return _page(place / files.HISTORY, place / files.REPORT, kept.seconds)
    for run in kept.outcomes:
        there = place.parent / run.directory if run.directory else place
        if (there / files.HISTORY).exists() and not (there / files.REPORT).exists():
            _page(there / files.HISTORY, there / files.REPORT, run.seconds)
    files.write_suite(place, kept.suite)
    return place / files.REPORT


def task_story(place: Path, task: str) -> list[str]:
    """Return the story of one task, by its key or id, with the evidence of its violations.

    Raises:
        RunNotFound: the place is a suite, or has no such task.
        HistoryError: the history cannot be judged.
        OSError: it cannot be opened.
    """
    if place.is_dir() and read(place).suite is not None:
        raise RunNotFound(f"{place} is a suite: name the run that has task {task}")
    judgement = check_file(place / files.HISTORY if place.is_dir() else place)
    history = judgement.history
    row = history.find_task(task)
    task_id = row.task_id if row else task
    violations = [v for v in judgement.violations if v.task_id == task_id]
    if task_id not in history.tasks and not violations:
        raise RunNotFound(f"{place} has no task {task}")
    lines = [f"{violation.invariant}: {violation.message}" for violation in violations]
    evidence = tuple(record for violation in violations for record in violation.evidence)
    return [*lines, *story(history, task_id, evidence, whole=True)]


def _page(history: Path, path: Path, seconds: float | None) -> Path:
    try:
        files.write_page(path, check_file(history), seconds)
    except HistoryError as error:
        message = str(error)
        raise HistoryError(message if str(history) in message else f"{history}: {error}") from None
    return path
