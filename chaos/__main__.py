"""``python -m chaos``: break Holdfast, and judge what it did."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import webbrowser
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from chaos import listing, options
from chaos import scenario as scenarios
from chaos.compose.docker import DockerError
from chaos.compose.ground import Containers
from chaos.compose.override import Unfit, require_fit
from chaos.history import HistoryError
from chaos.live import hunt as live_hunt
from chaos.live import suite as live
from chaos.live.shown_trace import NotShown, show_a_trace
from chaos.live.topology import Foundation
from chaos.mutants import MutantError
from chaos.mutants import catalogue as mutant_catalogue
from chaos.options import Arena
from chaos.process_strike import ActorFailed
from chaos.reopen import find, rebuild, story_of
from chaos.report import terminal
from chaos.runs import RunNotFound, RunStore
from chaos.scenario import Scenario, ScenarioError
from chaos.simulation.diagnosis.search import NotFailing, Search, regression_file
from chaos.simulation.stage.apps import AppError
from chaos.simulation.suite import hunt as simulated_hunt
from chaos.simulation.suite import suite as simulation
from chaos.simulation.suite.benchmark import Benchmark
from chaos.simulation.suite.pool import WorkerFailed
from chaos.simulation.sweep import sweep as sweeps
from chaos.simulation.sweep.strikes import ScheduleError
from chaos.simulation.sweep.trial import names as scope_names
from chaos.suites import expand, spread
from chaos.verdict import Judgement, check_file
from observability.go_build import GoBuildError
from system.machine import EmbeddedError

RUNS = Path(".holdfast/runs")
SIMULATED_SEEDS = 50
PROCESSES = os.cpu_count() or 1

_T = TypeVar("_T")

app = typer.Typer(
    name="chaos",
    help="Break every part of Holdfast and check that each accepted task has its effect once. "
    "Ends with 0 only if every verdict is true.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command("run")
def run_scenarios(  # noqa: PLR0913 - one for each option
    *,
    names: options.Names = None,
    seed: options.Seed = None,
    runs: options.Runs = 1,
    keep: options.Keep = False,
    arena: options.Where = Arena.LIVE,
    mutant: options.Mutant = None,
    trace: options.Trace = False,
    task: options.Task = None,
    shrink: options.Shrink = False,
    shrink_runs: options.ShrinkRuns = 60,
    into: options.Into = None,
    why: options.Why = False,
    why_runs: options.WhyRuns = 90,
    apps: options.Apps = None,
    processes: options.Processes = PROCESSES,
    benchmark: options.Benchmark = False,
    targets: options.Targets = None,
    runs_directory: options.RunsDirectory = RUNS,
) -> None:
    """Run scenarios, one line each with its verdict and meters (simulation: those not true)."""
    if benchmark and arena is Arena.SIMULATION:
        _finish(Benchmark().run())
        return
    first = random.randrange(1, 1_000_000) if seed is None else seed
    if arena is Arena.SIMULATION and not names:
        every = spread(max(runs, SIMULATED_SEEDS))
        todo = [(each, first + n) for n, each in enumerate(every)]
    else:
        chosen = [_find(name) for name in expand(names or [])]
        todo = [(each, first + n) for n in range(runs) for each in chosen]
    wish = simulation.Wish(
        runs=runs_directory,
        processes=processes,
        keep=keep,
        mutant=mutant,
        story=trace or task is not None,
        task=task,
        apps=tuple(apps or ()),
    )
    search = Search(
        shrink_runs=shrink_runs if shrink else None,
        why_runs=why_runs if why else None,
        into=_regression(into),
        mutant=mutant,
        apps=wish.apps,
        processes=processes,
    )
    if arena is not Arena.SIMULATION and (wish.story or apps or search.wanted or benchmark):
        told = "--trace, --task, --shrink, --why, --app and --benchmark"
        raise typer.BadParameter(f"{told} are for --arena simulation")
    if targets is not None and arena is not Arena.LIVE:
        raise typer.BadParameter("--targets is for --arena live")
    if arena is Arena.COMPOSE:
        todo = _fitting(todo, names or [])
    typer.echo(f"arena {arena}, seed {first}, {len(todo)} runs", err=True)
    if arena is not Arena.SIMULATION:
        lay = Foundation.laid if arena is Arena.LIVE else Containers.laid
        runner = live.Suite(runs_directory, keep=keep, targets=targets, lay=lay)
        _exit(_finish(runner.run(todo, mutant)))
    suite = simulation.Suite(wish)
    good = _finish(suite.run(todo))
    if search.wanted:
        _finish(search.run(suite.failed))
    _exit(good)


@app.command("trace")
def show_trace(
    *, keep: Annotated[bool, typer.Option("--keep", help="Keep Jaeger until Ctrl-C.")] = False
) -> None:
    """Kill a worker while it runs a task, and draw the task's trace: both attempts, the kill."""
    _finish(show_a_trace(keep=keep))


@app.command("check")
def check_history(
    history: Annotated[
        Path, typer.Argument(exists=True, help="A history.jsonl, or its directory.")
    ],
) -> None:
    """Judge a recorded history again."""
    try:
        judgement = check_file(history / "history.jsonl" if history.is_dir() else history)
    except (HistoryError, OSError) as error:
        typer.echo(f"cannot judge: {error}", err=True)
        raise typer.Exit(2) from None
    show(judgement)
    typer.echo(terminal.bound(judgement.history.run.bound))
    _exit(judgement.verdict == "true")


@app.command("mutants")
def run_mutants(  # noqa: PLR0913 - one for each option
    *,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[MUTANT]...", help="Default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of each first run; then it goes up.")] = 7,
    catalogue: Annotated[
        bool, typer.Option("--list", help="Only print every guard with its mutant, or why none.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep all logs.")] = False,
    arena: Annotated[
        Arena, typer.Option(help="Where to hunt; the next three are for the simulation.")
    ] = Arena.LIVE,
    seeds: Annotated[int, typer.Option(min=1, help="Each start tries at most so many.")] = 20,
    starts: Annotated[
        int, typer.Option(min=1, help="Each mutant is killed so often, from other seeds.")
    ] = 3,
    processes: Annotated[
        int, typer.Option(min=1, help="So many mutants at a time; default: one per core.")
    ] = os.cpu_count() or 1,
    runs_directory: Annotated[Path, typer.Option(help="Where histories are kept.")] = RUNS,
) -> None:
    """Switch off one guard of a copy of the system at a time: each must be caught."""
    if catalogue:
        typer.echo(mutant_catalogue())
        return
    if arena is Arena.COMPOSE:
        raise typer.BadParameter("mutants are hunted in the arenas live and simulation")
    if arena is Arena.LIVE:
        _exit(_finish(live_hunt.Hunt(runs_directory, seed, keep=keep).run(names or [])))
    chase = simulated_hunt.Chase(runs_directory, seed, seeds, starts, processes, keep)
    _exit(_finish(simulated_hunt.Hunt(chase).run(names or [])))


@app.command("sweep")
def sweep_messages(  # noqa: PLR0913 - one for each option
    *,
    scopes: Annotated[
        list[str] | None, typer.Argument(metavar="[SCOPE]...", help="Default: all of them.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every run, and of what is drawn.")] = sweeps.SEED,
    sample: Annotated[int, typer.Option(min=0, help="So many pairs in each scope.")] = 500,
    restarts: Annotated[
        int, typer.Option(min=0, help="So many kills of each server in each scope.")
    ] = 20,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Just this schedule, as it was printed.")
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="With --only: tell every event.")] = False,
    mutant: Annotated[
        str | None, typer.Option(help="Plant this fault in a copy of the system; see mutants.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="So many schedules at a time; default: one per core.")
    ] = os.cpu_count() or 1,
    runs_directory: Annotated[Path, typer.Option(help="Where histories are kept.")] = RUNS,
) -> None:
    """Lose every message of a small system once, and kill every process at each (simulation)."""
    names = tuple(scopes or scope_names())
    wish = sweeps.Wish(runs_directory, processes, names, seed, sample, restarts, mutant)
    if only:
        _exit(_finish(sweeps.Sweep(wish).only(only, story=trace)))
    _exit(_finish(sweeps.Sweep(wish).run()))


@app.command("report")
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
        str | None, typer.Option(help="Only tell the story of this task, by its key or id.")
    ] = None,
    show_it: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    runs_directory: Annotated[Path, typer.Option(help="Where histories are kept.")] = RUNS,
) -> None:
    """Write the HTML report of a run or suite again, and say where it is."""
    try:
        place = find(run, runs_directory)
        if task is not None:
            typer.echo("\n".join(story_of(place, task)))
            return
        path = rebuild(place)
    except (HistoryError, RunNotFound, OSError) as error:
        typer.echo(f"no report: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(path)
    if show_it and not webbrowser.open(path.resolve().as_uri()):
        typer.echo("no browser was found: open the file yourself", err=True)


@app.command("list")
def list_scenarios(
    *,
    runs: Annotated[
        bool, typer.Option("--runs", help="The kept runs instead, newest first.")
    ] = False,
    runs_directory: Annotated[Path, typer.Option(help="Where histories are kept.")] = RUNS,
) -> None:
    """The scenarios that come along and the mutants, or the kept runs."""
    if runs:
        lines = listing.runs_lines(RunStore(runs_directory))
        typer.echo("\n".join(lines) or f"no runs in {runs_directory}")
        return
    typer.echo("\n".join([*listing.scenarios_lines(), "", *listing.mutants_lines()]))


def show(judgement: Judgement) -> None:
    """One line, one per planned fault, and the details where the verdict is not true."""
    typer.echo(terminal.line(judgement))
    if faults := terminal.faults(judgement):
        typer.echo(faults)
    if details := terminal.details(judgement):
        typer.echo(details)


def _find(name: str) -> Scenario:
    try:
        return scenarios.find(name)
    except (ScenarioError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def _fitting(todo: list[tuple[Scenario, int]], names: list[str]) -> list[tuple[Scenario, int]]:
    """Without what containers cannot do; that is an error where it was asked for by its name."""
    fitting = []
    for scenario, seed in todo:
        try:
            require_fit(scenario)
        except Unfit as error:
            typer.echo(f"left out: {error}", err=True)
            if scenario.id in names:
                raise typer.Exit(2) from None
        else:
            fitting.append((scenario, seed))
    return fitting


def _regression(into: Path | None) -> Path | None:
    try:
        return regression_file(into) if into else None
    except ValueError as error:
        raise typer.BadParameter(f"--into: {error}") from None


def _finish(work: Coroutine[None, None, _T]) -> _T:
    """Run to the end; an error that the user can do something about is told without a traceback.

    SIGTERM ends it as Ctrl-C does: in order, with what there is so far.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return asyncio.run(work)
    except (
        AppError,
        ActorFailed,
        DockerError,
        MutantError,
        NotFailing,
        NotShown,
        EmbeddedError,
        ScenarioError,
        ScheduleError,
        GoBuildError,
        WorkerFailed,
    ) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def _exit(good: bool) -> None:  # noqa: FBT001
    raise typer.Exit(0 if good else 1)


if __name__ == "__main__":
    sys.exit(app())
