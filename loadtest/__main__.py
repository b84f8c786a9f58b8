"""``python -m loadtest``: measurements from the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from loadtest import bench_submit, profiler
from loadtest import drain as drains
from loadtest import load as loads
from loadtest import scale as scales
from loadtest import soak as soaks
from loadtest.cli_runner import run, say
from loadtest.locust_run import LocustLoad
from loadtest.peers import compare
from loadtest.peers.environments import default_cache
from loadtest.peers.peer_process import NAMES
from loadtest.thresholds import DEFAULT_FILE

EXIT_MISSED = 3

JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Also write all figures to this file.")
]


class Measurement(Protocol):
    """The result of a command."""

    def lines(self) -> list[str]:
        """Return it as lines of text."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""


app = typer.Typer(
    help="How fast is Holdfast? Each command starts a stack of its own and removes it afterwards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def drain(
    *,
    tasks: Annotated[int, typer.Option(min=1, help="No-op tasks in each round.")] = 20_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median is reported.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    schedulers: Annotated[int, typer.Option(min=1, help="Scheduler processes.")] = 1,
    peer_tasks: Annotated[
        int, typer.Option(min=0, help="Jobs for Procrastinate in each round; 0 leaves it out.")
    ] = 3_000,
    rate: Annotated[int, typer.Option(min=2, help="Tasks per second of the steady load.")] = 500,
    latency_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds of the steady load; 0 leaves it out.")
    ] = 15.0,
    json_file: JsonFile = None,
) -> None:
    """Store no-op tasks over HTTP, drain them with worker processes, and Procrastinate beside."""
    _check_parent(json_file)
    options = drains.DrainOptions(
        tasks=tasks,
        rounds=rounds,
        workers=workers,
        schedulers=schedulers,
        peer_tasks=peer_tasks,
        rate=rate,
        latency_seconds=latency_seconds,
    )
    figures = run(drains.run(options, say))
    _tell(figures, json_file)


@app.command()
def submit(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median is reported.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="wrk: duration of each run.")] = 8.0,
    connections: Annotated[
        int, typer.Option(min=1, help="wrk: connections for single requests.")
    ] = 64,
    tasks: Annotated[
        int,
        typer.Option(min=500, help="By enqueue_many in each round; without wrk in batches, too."),
    ] = 30_000,
    singly: Annotated[int, typer.Option(min=1, help="By enqueue, in each round.")] = 3_000,
    wrk: Annotated[bool, typer.Option(help="Requests by wrk.")] = True,
    json_file: JsonFile = None,
) -> None:
    """Store tasks in each way there is, and time single ones while nothing else is to be done."""
    _check_parent(json_file)
    options = bench_submit.SubmitOptions(
        rounds=rounds,
        seconds=seconds,
        connections=connections,
        tasks=tasks,
        singly=singly,
        wrk=wrk,
    )
    rates = run(bench_submit.run(options, say))
    _tell(rates, json_file)


class LoadShape(StrEnum):
    """Load shapes of the locustfile."""

    STEADY = "steady"
    RAMP = "ramp"
    SPIKE = "spike"
    SOAK = "soak"


@app.command()
def load(  # noqa: PLR0913 - one for each option
    *,
    host: Annotated[
        str | None,
        typer.Option(help="Base URL of a running Holdfast. Default: start a stack."),
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Locust's users.")] = 30,
    spawn_rate: Annotated[float, typer.Option(min=0.1, help="Users started per second.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the load.")] = 60.0,
    shape: Annotated[
        LoadShape, typer.Option(help="How many users are there when.")
    ] = LoadShape.STEADY,
    batch_size: Annotated[
        int, typer.Option(min=1, max=1000, help="Tasks in a batch submit.")
    ] = 100,
    effect_seconds: Annotated[
        float, typer.Option(min=1, help="A watched task must have its effect by then.")
    ] = 60.0,
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="Longest wait for the drain after the load.")
    ] = 120.0,
    tasks_max: Annotated[
        int, typer.Option(min=1, help="Read back at most this many tasks.")
    ] = 1_000_000,
    workers: Annotated[int, typer.Option(min=1, help="Workers of a stack of its own.")] = 2,
    schedulers: Annotated[int, typer.Option(min=1, help="Its schedulers.")] = 1,
    thresholds: Annotated[
        Path, typer.Option(help="Limits, in YAML; a missed one makes the exit code 3.")
    ] = DEFAULT_FILE,
    out: Annotated[
        Path | None, typer.Option(help="New directory for the files. [load-runs/TIME]")
    ] = None,
    locust_arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="After --: arguments passed to Locust unchanged, e.g. -- --tags submit"
        ),
    ] = None,
) -> None:
    """Load Holdfast with Locust's users for a while, and judge it by limits.

    An API that asks for keys gets HOLDFAST_API_KEY from the environment.
    """
    out = out or _new_directory("load")
    if out.exists():
        raise typer.BadParameter(f"{out} exists", param_hint="--out")
    options = loads.LoadOptions(
        load=LocustLoad(
            users=users,
            spawn_rate=spawn_rate,
            seconds=seconds,
            shape=shape,
            effect_seconds=effect_seconds,
            batch_size=batch_size,
            arguments=tuple(locust_arguments or ()),
        ),
        out=out,
        thresholds=thresholds,
        host=host,
        workers=workers,
        schedulers=schedulers,
        drain_seconds=drain_seconds,
        tasks_max=tasks_max,
    )
    summary = run(loads.run(options, say))
    for line in summary.lines():
        typer.echo(line)
    say(f"the page: {out / 'summary.html'}")
    if not summary.passed:
        raise typer.Exit(EXIT_MISSED)


@app.command()
def peers(
    *,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"These alone, of: {', '.join(NAMES)}. May be repeated."),
    ] = None,
    tasks: Annotated[
        int, typer.Option(min=1, help="Tasks for the fastest; a slow peer gets a fixed share.")
    ] = 20_000,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes of each.")] = 2,
    schedulers: Annotated[int, typer.Option(min=1, help="Scheduler processes of ours.")] = 1,
    cache: Annotated[
        Path, typer.Option(help="Where the peers' virtual environments are kept.")
    ] = default_cache(),  # noqa: B008 - shown by --help
    out: Annotated[
        Path | None, typer.Option(help="Write peers.md and peers.json into this directory, too.")
    ] = None,
) -> None:
    """Holdfast beside other task queues, in alternation on the same servers; prints the table."""
    names = tuple(dict.fromkeys(only or NAMES))
    if unknown := [name for name in names if name not in NAMES]:
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(NAMES)}", param_hint="--only")
    options = compare.CompareOptions(names, cache, tasks, rounds, workers, schedulers)
    comparison = run(compare.compare(options, say))
    typer.echo(comparison.markdown(), nl=False)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "peers.md").write_text(comparison.markdown(), encoding="utf-8")
        told = json.dumps(comparison.as_json(), indent=2) + "\n"
        (out / "peers.json").write_text(told, encoding="utf-8")


@app.command()
def profile(
    *,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks to submit and drain.")] = 30_000,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    python: Annotated[
        bool, typer.Option(help="Sample functions of api, scheduler and a worker, too (py-spy).")
    ] = True,
    extension: Annotated[
        bool, typer.Option(help="By pg_stat_statements, or by looking at who is active.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="For profile.json and folded stacks. [load-runs/TIME]")
    ] = None,
) -> None:
    """Where does the time go? Per statement in Postgres, per function in Python."""
    out = out or _new_directory("profile")
    options = profiler.ProfileOptions(out, tasks, workers, python=python, extension=extension)
    for line in run(profiler.run(options, say)).lines():
        typer.echo(line)
    say(f"profile.json, and stacks for a flame graph, lie in {out}")


@app.command()
def scale(
    *,
    future: Annotated[int, typer.Option(min=0, help="Tasks due in a month.")] = 5_000_000,
    finished: Annotated[int, typer.Option(min=0, help="Finished tasks.")] = 5_000_000,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks drained in each round.")] = 20_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at each size.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    schedulers: Annotated[int, typer.Option(min=1, help="Scheduler processes.")] = 1,
    share_min: Annotated[
        float, typer.Option(min=0, help="Less of the rate than that makes the exit code 3.")
    ] = 0.85,
    json_file: JsonFile = None,
) -> None:
    """Drain beside a large table (filled by SQL) and beside an empty one."""
    options = scales.ScaleOptions(future, finished, tasks, rounds, workers, schedulers)
    _check_parent(json_file)
    scaling = run(scales.run(options, say))
    _tell(scaling, json_file)
    if scaling.share < share_min:
        typer.echo(f"MISSED: {scaling.share:.0%} of the rate, at least {share_min:.0%}")
        raise typer.Exit(EXIT_MISSED)


@app.command()
def soak(
    *,
    minutes: Annotated[float, typer.Option(min=0.05, help="Length of the load.")] = 20.0,
    rate: Annotated[int, typer.Option(min=2, help="Tasks per second.")] = 200,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 10.0,
    retention_minutes: Annotated[
        float, typer.Option(min=0.01, help="Finished tasks are deleted after that.")
    ] = 2.0,
    growth_max: Annotated[
        float,
        typer.Option(
            help="Memory and sizes: the last quarter over the second; more makes the exit code 3."
        ),
    ] = 1.25,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    schedulers: Annotated[int, typer.Option(min=1, help="Scheduler processes.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="For soak.json and soak.html. [load-runs/TIME]")
    ] = None,
) -> None:
    """A steady load for long: memory, sizes of tables and indexes, dead tuples over time."""
    options = soaks.SoakOptions(
        minutes=minutes,
        rate=rate,
        every_seconds=every,
        retention_minutes=retention_minutes,
        growth_max=growth_max,
        workers=workers,
        schedulers=schedulers,
    )
    told = run(soaks.run(options, say))
    for line in told.lines():
        typer.echo(line)
    say(f"the page: {soaks.save(told, out or _new_directory('soak'))}")
    if not told.flat:
        raise typer.Exit(EXIT_MISSED)


def _new_directory(what: str) -> Path:
    return Path("load-runs") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{what}"


def _tell(measured: Measurement, json_file: Path | None) -> None:
    for line in measured.lines():
        typer.echo(line)
    if json_file is not None:
        json_file.write_text(json.dumps(measured.as_json(), indent=2) + "\n")


def _check_parent(json_file: Path | None) -> None:
    if json_file is not None and not json_file.parent.is_dir():
        raise typer.BadParameter(f"there is no directory {json_file.parent}", param_hint="--json")


if __name__ == "__main__":
    app()
