"""``python -m chaos check``, ``report`` and ``list``: what is in the run store."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from chaos.checker.verdict import Judgement, check_file
from chaos.cli import listing, options
from chaos.cli.common import exit_with, fail
from chaos.history.history import HistoryError
from chaos.report import terminal
from chaos.run.rebuild import find, rebuild, task_story
from chaos.run.store import RunNotFound, RunStore


def check_history(
    history: Annotated[
        Path, typer.Argument(exists=True, help="A history.jsonl, or its directory.")
    ],
) -> None:
    """Judge a recorded history again."""
    try:
        judgement = check_file(history / "history.jsonl" if history.is_dir() else history)
    except (HistoryError, OSError) as error:
        fail(f"cannot judge: {error}")
    _show(judgement)
    typer.echo(terminal.bound(judgement.history.run.bound))
    exit_with(success=judgement.verdict == "true")


def rebuild_report(
    *,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="A run or suite by name or directory, or any history.jsonl; default: the latest.",
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Only print the story of this task, by its key or id.")
    ] = None,
    show_it: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    runs_directory: options.RunsDirectory = options.RUNS,
) -> None:
    """Write the HTML report of a run or suite again, and print its path."""
    try:
        place = find(run, runs_directory)
        if task is not None:
            typer.echo("\n".join(task_story(place, task)))
            return
        path = rebuild(place)
    except (HistoryError, RunNotFound, OSError) as error:
        fail(f"no report: {error}")
    typer.echo(path)
    if show_it and not webbrowser.open(path.resolve().as_uri()):
        typer.echo("no browser was found: open the file yourself", err=True)


def list_scenarios(
    *,
    runs: Annotated[
        bool, typer.Option("--runs", help="List the kept runs instead, newest first.")
    ] = False,
    runs_directory: options.RunsDirectory = options.RUNS,
) -> None:
    """List the included scenarios and the mutants, or the kept runs."""
    if runs:
        lines = listing.runs_lines(RunStore(runs_directory))
        typer.echo("\n".join(lines) or f"no runs in {runs_directory}")
        return
    typer.echo("\n".join([*listing.scenarios_lines(), "", *listing.mutants_lines()]))


def _show(judgement: Judgement) -> None:
    """Print one line, one per planned fault, and the details unless the verdict is true."""
    typer.echo(terminal.line(judgement))
    if faults := terminal.faults(judgement):
        typer.echo(faults)
    if details := terminal.details(judgement):
        typer.echo(details)
