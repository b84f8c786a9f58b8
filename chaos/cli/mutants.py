"""``python -m chaos mutants``: check that the verdicts notice planted faults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chaos.cli import options
from chaos.cli.common import exit_with, fail, finish
from chaos.cli.generated_mutants import GeneratedRun
from chaos.history.records import ArenaName
from chaos.live.mutation_run import run_live_mutants
from chaos.mutants import MUTANTS, MutantError, catalogue, find
from chaos.simulation.suite.mutation_run import MutationSettings, run_simulated_mutants


def run_mutants(  # noqa: PLR0913 - one for each option
    *,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[MUTANT]...", help="Default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of each first run; it increases.")] = 7,
    show_list: Annotated[
        bool,
        typer.Option("--list", help="Only print every guard with its mutant, or why it has none."),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep all logs.")] = False,
    arena: Annotated[
        ArenaName, typer.Option(help="live or simulation; the next three are for the simulation.")
    ] = ArenaName.LIVE,
    seeds: Annotated[int, typer.Option(min=1, help="Maximum number of seeds per start.")] = 20,
    starts: Annotated[
        int, typer.Option(min=1, help="Times that each mutant must be killed, from other seeds.")
    ] = 3,
    processes: options.MutantProcesses = None,
    runs_directory: options.RunsDirectory = options.RUNS,
    generated: options.Generated = None,
    tier: options.Tier = options.TierChoice.ALL,
    hours: options.Hours = None,
    results: options.Results = None,
) -> None:
    """Remove one guard at a time from a copy of the system: each mutant must be caught."""
    if show_list:
        typer.echo(catalogue())
        return
    if generated is not None:
        file = results or Path(f".holdfast/mutants-{seed}.jsonl")
        at_a_time = processes or max(1, options.PROCESSES // 2)
        run = GeneratedRun(generated, seed, tier.tiers, file, hours, at_a_time)
        exit_with(success=finish(run.run()))
    if arena is ArenaName.COMPOSE:
        raise typer.BadParameter("mutants are run in the arenas live and simulation")
    try:
        mutants = [find(name) for name in names or MUTANTS]
    except MutantError as error:
        fail(str(error))
    runs = runs_directory.absolute()
    if arena is ArenaName.LIVE:
        exit_with(success=finish(run_live_mutants(mutants, runs, seed, keep=keep)))
    settings = MutationSettings(runs, seed, seeds, starts, processes or options.PROCESSES, keep)
    exit_with(success=finish(run_simulated_mutants(mutants, settings)))
