"""``python -m chaos sweep``: disturb a small simulated system at every message."""

from __future__ import annotations

from typing import Annotated

import typer

from chaos.cli import options
from chaos.cli.common import exit_with, finish
from chaos.simulation.sweep import sweep as sweeps
from chaos.simulation.sweep.trial import names as scope_names


def sweep_messages(  # noqa: PLR0913 - one for each option
    *,
    scopes: Annotated[
        list[str] | None, typer.Argument(metavar="[SCOPE]...", help="Default: all of them.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every run and of the samples.")] = sweeps.SEED,
    sample: Annotated[int, typer.Option(min=0, help="Number of pairs in each scope.")] = 500,
    restarts: Annotated[
        int, typer.Option(min=0, help="Number of kills of each server in each scope.")
    ] = 20,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Just this schedule, as it was printed.")
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="With --only: print every event.")] = False,
    mutant: options.Mutant = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Number of schedules at a time; default: one per core.")
    ] = options.PROCESSES,
    runs_directory: options.RunsDirectory = options.RUNS,
) -> None:
    """Lose every message of a small system once, and kill every process at each (simulation)."""
    names = tuple(scopes or scope_names())
    wish = sweeps.SweepOptions(runs_directory, processes, names, seed, sample, restarts, mutant)
    sweep = sweeps.Sweep(wish)
    exit_with(success=finish(sweep.only(only, story=trace) if only else sweep.run()))
