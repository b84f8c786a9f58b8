"""``python -m chaos run``: run scenarios in one of the arenas."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import typer

from chaos.cli import options
from chaos.cli.common import exit_with, fail, finish
from chaos.compose.stack_factory import ContainerStackFactory
from chaos.errors import ChaosError
from chaos.history.records import ArenaName
from chaos.live.run import RealTimeArena
from chaos.live.topology import ProcessStackFactory
from chaos.mutants import find
from chaos.run.spec import RunSpec
from chaos.run.suite import run_suite
from chaos.scenario import scenario as scenarios
from chaos.scenario.fit import Unfit, require_fit
from chaos.scenario.scenario import Scenario
from chaos.scenario.suites import expand, spread
from chaos.simulation.diagnosis.search import Search, regression_file
from chaos.simulation.suite.benchmark import Benchmark
from chaos.simulation.suite.suite import Suite, SuiteOptions

_SIMULATED_SEEDS = 50


def run_scenarios(  # noqa: PLR0913 - one for each option
    *,
    names: options.Names = None,
    seed: options.Seed = None,
    runs: options.Runs = 1,
    keep: options.Keep = False,
    arena: options.Arena = ArenaName.LIVE,
    mutant: options.Mutant = None,
    trace: options.Trace = False,
    task: options.Task = None,
    shrink: options.Shrink = False,
    shrink_runs: options.ShrinkRuns = 60,
    into: options.Into = None,
    why: options.Why = False,
    why_runs: options.WhyRuns = 90,
    apps: options.Apps = None,
    processes: options.Processes = options.PROCESSES,
    benchmark: options.Benchmark = False,
    targets: options.Targets = None,
    runs_directory: options.RunsDirectory = options.RUNS,
) -> None:
    """Run scenarios, one line each with its verdict and meters."""
    simulated = arena is ArenaName.SIMULATION
    if not simulated and (trace or task is not None or shrink or why or apps or benchmark):
        used = "--trace, --task, --shrink, --why, --app and --benchmark"
        raise typer.BadParameter(f"{used} are for --arena simulation")
    if targets is not None and arena is not ArenaName.LIVE:
        raise typer.BadParameter("--targets is for --arena live")
    if benchmark:
        finish(Benchmark().run())
        return
    suite_options = SuiteOptions(processes, tuple(apps or ()), trace or task is not None, task)
    search = Search(
        shrink_runs=shrink_runs if shrink else None,
        why_runs=why_runs if why else None,
        into=_regression(into),
        mutant=mutant,
        apps=suite_options.apps,
        processes=processes,
    )
    first = random.randrange(1, 1_000_000) if seed is None else seed
    store = runs_directory.absolute()
    specs = [
        RunSpec(arena, scenario, each, store, keep=keep, mutant=mutant)
        for scenario, each in _scenarios(arena, names or [], first, runs, mutant)
    ]
    typer.echo(f"arena {arena}, seed {first}, {len(specs)} runs", err=True)
    if simulated:
        exit_with(success=_simulate(specs, suite_options, search))
    elif arena is ArenaName.LIVE:
        exit_with(success=finish(_run_live(specs, targets)))
    exit_with(success=finish(_run_in_containers(specs)))


def _simulate(specs: Sequence[RunSpec], suite_options: SuiteOptions, search: Search) -> bool:
    suite = Suite(suite_options)
    success = finish(suite.run(specs))
    if search.wanted:
        finish(search.run(suite.failed))
    return success


async def _run_live(specs: Sequence[RunSpec], targets: Path | None) -> bool:
    async with ProcessStackFactory.open() as stacks:
        return await run_suite(RealTimeArena(stacks, targets), specs)


async def _run_in_containers(specs: Sequence[RunSpec]) -> bool:
    async with ContainerStackFactory.open() as stacks:
        return await run_suite(RealTimeArena(stacks), specs)


def _scenarios(
    arena: ArenaName, names: list[str], first: int, runs: int, mutant: str | None
) -> list[tuple[Scenario, int]]:
    """Choose the scenarios, each with its seed; exit with 2 for an unknown name."""
    if arena is ArenaName.SIMULATION and not names:
        every = spread(max(runs, _SIMULATED_SEEDS))
        return [(scenario, first + n) for n, scenario in enumerate(every)]
    try:
        if mutant:
            find(mutant)
        chosen = [scenarios.find(name) for name in expand(names)]
    except (ChaosError, OSError) as error:
        fail(str(error))
    runs_of_each = [(scenario, first + n) for n in range(runs) for scenario in chosen]
    return _fitting(runs_of_each, arena, names)


def _fitting(
    chosen: list[tuple[Scenario, int]], arena: ArenaName, named: list[str]
) -> list[tuple[Scenario, int]]:
    """Leave out what the arena cannot run; exit with 2 if nothing is left of all or of a name."""
    fitting, reasons = [], dict[str, None]()
    for scenario, seed in chosen:
        try:
            require_fit(scenario, arena)
        except Unfit as error:
            reasons[str(error)] = None
        else:
            fitting.append((scenario, seed))
    for reason in reasons:
        typer.echo(f"left out: {reason}", err=True)
    lost = {scenario.id for scenario, _ in chosen} - {scenario.id for scenario, _ in fitting}
    if not fitting or lost & {*named}:
        raise typer.Exit(2)
    return fitting


def _regression(into: Path | None) -> Path | None:
    try:
        return regression_file(into) if into else None
    except ValueError as error:
        raise typer.BadParameter(f"--into: {error}") from None
