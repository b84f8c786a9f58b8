"""Provide the command line of the measurements: ``python -m loadtest``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from loadtest import bench_submit, drain_transactions, profiler
from loadtest import drain as drains
from loadtest import load as loads
from loadtest import scale as scales
from loadtest import soak as soaks
from loadtest.cli_runner import run, say
from loadtest.locust_run import LocustLoad
from loadtest.peers import compare
from loadtest.peers.environments import default_cache
from loadtest.peers.peer_process import NAMES, REDELIVERY_SECONDS
from loadtest.thresholds import DEFAULT_FILE

EXIT_MISSED = 3

JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Also write all figures to this file.")
]


PayloadBytes = Annotated[int, typer.Option(min=0, help="Size of each payload.")]


class Measurement(Protocol):
    """Result of a command."""

    def lines(self) -> list[str]:
        """Return it as lines of text."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""


app = typer.Typer(
    help="Measure Holdfast. Each command starts a temporary stack and removes it afterwards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class DrainEffect(StrEnum):
    """What the handlers of a drain do."""

    NONE = "none"
    TRANSACTION = "transaction"


@app.command()
def drain(  # noqa: PLR0913 - one argument per option
    *,
    effect: Annotated[
        DrainEffect,
        typer.Option(
            help="What handlers do: nothing, or one INSERT in ctx.transaction(), beside bare "
            "transactions by asyncpg instead of Procrastinate."
        ),
    ] = DrainEffect.NONE,
    payload_bytes: PayloadBytes = 256,
    tasks: Annotated[
        int | None, typer.Option(min=1, help="Tasks in each round. [20000; transaction: 5000]")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median is reported.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    schedulers: Annotated[int, typer.Option(min=1, help="Scheduler processes.")] = 1,
    peer_tasks: Annotated[
        int, typer.Option(min=0, help="Jobs for Procrastinate in each round; 0 skips it.")
    ] = 3_000,
    rate: Annotated[
        int | None,
        typer.Option(min=2, help="Tasks per second in the latency phase. [500; transaction: 50]"),
    ] = None,
    latency_seconds: Annotated[
        float, typer.Option(min=0, help="Length of the latency phase; 0 skips it.")
    ] = 15.0,
    json_file: JsonFile = None,
) -> None:
    """Measure submit and drain rates and latency, next to Procrastinate or bare transactions."""
    _check_parent(json_file)
    sizes = drains.DrainSizes(rounds, workers, schedulers, payload_bytes, latency_seconds)
    if effect is DrainEffect.TRANSACTION:
        transactions = drain_transactions.TransactionOptions(sizes, tasks or 5_000, rate or 50)
        _print(run(drain_transactions.run(transactions, say)), json_file)
        return
    options = drains.DrainOptions(sizes, tasks or 20_000, peer_tasks, rate or 500)
    _print(run(drains.run(options, say)), json_file)


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
        typer.Option(
            min=500, help="Tasks per round by enqueue_many; without wrk, also by batch requests."
        ),
    ] = 30_000,
    singly: Annotated[int, typer.Option(min=1, help="Tasks per round by enqueue.")] = 3_000,
    wrk: Annotated[bool, typer.Option(help="Generate HTTP load with wrk.")] = True,
    payload_bytes: PayloadBytes = 256,
    json_file: JsonFile = None,
) -> None:
    """Measure each way of storing tasks, and the latency of single tasks on an idle system."""
    _check_parent(json_file)
    options = bench_submit.SubmitOptions(
        rounds=rounds,
        seconds=seconds,
        connections=connections,
        tasks=tasks,
        singly=singly,
        wrk=wrk,
        payload_bytes=payload_bytes,
    )
    rates = run(bench_submit.run(options, say))
    _print(rates, json_file)


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
    users: Annotated[int, typer.Option(min=1, help="Number of Locust users.")] = 30,
    spawn_rate: Annotated[float, typer.Option(min=0.1, help="Users started per second.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the load.")] = 60.0,
    shape: Annotated[LoadShape, typer.Option(help="Number of users over time.")] = LoadShape.STEADY,
    batch_size: Annotated[
        int, typer.Option(min=1, max=1000, help="Tasks in a batch submit.")
    ] = 100,
    effect_seconds: Annotated[
        float, typer.Option(min=1, help="Deadline for the effect of a watched task.")
    ] = 60.0,
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="Longest wait for the drain after the load.")
    ] = 120.0,
    tasks_max: Annotated[
        int, typer.Option(min=1, help="Maximum number of tasks to read back.")
    ] = 1_000_000,
    workers: Annotated[int, typer.Option(min=1, help="Workers of a temporary stack.")] = 2,
    schedulers: Annotated[int, typer.Option(min=1, help="Schedulers of a temporary stack.")] = 1,
    thresholds: Annotated[
        Path, typer.Option(help="YAML file of limits; exit code 3 if one is missed.")
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
    """Load Holdfast with Locust users and check the figures against limits.

    HOLDFAST_API_KEY is sent to an API that requires a key.
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
    say(f"report: {out / 'summary.html'}")
    if not summary.passed:
        raise typer.Exit(EXIT_MISSED)


class PeerEffect(StrEnum):
    """What each task of a comparison must leave in Postgres."""

    NONE = "none"
    LEDGER = "ledger"
    TRANSACTION = "transaction"


@app.command()
def peers(  # noqa: PLR0913 - one argument per option
    *,
    effect: Annotated[
        PeerEffect,
        typer.Option(
            help="What every system must leave for each task: nothing, or exactly one row in "
            "Postgres although a worker is killed (Holdfast: by its ledger, or inserted in "
            f"ctx.transaction()). Only {', '.join(REDELIVERY_SECONDS)}."
        ),
    ] = PeerEffect.NONE,
    payload_bytes: PayloadBytes = 256,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"Only this peer: {', '.join(NAMES)}. Repeatable."),
    ] = None,
    tasks: Annotated[
        int, typer.Option(min=1, help="Tasks per round; slow peers get a fixed share of it.")
    ] = 20_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each peer.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes of each system.")] = 2,
    schedulers: Annotated[int, typer.Option(min=1, help="Scheduler processes of Holdfast.")] = 1,
    cache: Annotated[
        Path, typer.Option(help="Directory of the peers' virtual environments.")
    ] = default_cache(),  # noqa: B008 - shown by --help
    out: Annotated[
        Path | None, typer.Option(help="Also write peers.md and peers.json into this directory.")
    ] = None,
) -> None:
    """Compare Holdfast with other task queues on the same servers, and print a table."""
    able = NAMES if effect is PeerEffect.NONE else tuple(REDELIVERY_SECONDS)
    names = tuple(dict.fromkeys(only or able))
    if unknown := [name for name in names if name not in NAMES]:
        raise typer.BadParameter(
            f"{unknown[0]} is not one of {', '.join(NAMES)}", param_hint="--only"
        )
    if unable := [name for name in names if name not in able]:
        raise typer.BadParameter(
            f"{unable[0]} has no handler for --effect, only {', '.join(able)}", param_hint="--only"
        )
    options = compare.CompareOptions(
        names,
        cache,
        tasks,
        rounds,
        workers,
        schedulers,
        payload_bytes,
        "" if effect is PeerEffect.NONE else effect.value,
    )
    comparison = run(compare.compare(options, say))
    typer.echo(comparison.markdown(), nl=False)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "peers.md").write_text(comparison.markdown(), encoding="utf-8")
        content = json.dumps(comparison.as_json(), indent=2) + "\n"
        (out / "peers.json").write_text(content, encoding="utf-8")


@app.command()
def profile(
    *,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks to submit and drain.")] = 30_000,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    payload_bytes: PayloadBytes = 256,
    python: Annotated[
        bool, typer.Option(help="Sample functions of API, scheduler and a worker with py-spy.")
    ] = True,
    extension: Annotated[
        bool, typer.Option(help="Use pg_stat_statements; otherwise sample active statements.")
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory for profile.json and folded stacks. [load-runs/TIME]"),
    ] = None,
) -> None:
    """Measure the cost of each statement in Postgres and each function in Python."""
    out = out or _new_directory("profile")
    options = profiler.ProfileOptions(
        out, tasks, workers, payload_bytes, python=python, extension=extension
    )
    for line in run(profiler.run(options, say)).lines():
        typer.echo(line)
    say(f"profile.json and folded stacks: {out}")


@app.command()
def scale(  # noqa: PLR0913 - one argument per option
    *,
    future: Annotated[int, typer.Option(min=0, help="Tasks due in a month.")] = 5_000_000,
    finished: Annotated[int, typer.Option(min=0, help="Finished tasks.")] = 5_000_000,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks drained in each round.")] = 20_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at each size.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    schedulers: Annotated[int, typer.Option(min=1, help="Scheduler processes.")] = 1,
    queues: Annotated[
        int, typer.Option(min=0, help="Further queues over which the future tasks are spread.")
    ] = 0,
    payload_bytes: PayloadBytes = 256,
    share_min: Annotated[
        float,
        typer.Option(min=0, help="Minimum share of the empty table's rate; exit code 3 below."),
    ] = 0.85,
    json_file: JsonFile = None,
) -> None:
    """Compare the drain with a large table (filled by SQL) to that with an empty one."""
    options = scales.ScaleOptions(
        future, finished, tasks, rounds, workers, schedulers, queues, payload_bytes
    )
    _check_parent(json_file)
    scaling = run(scales.run(options, say))
    _print(scaling, json_file)
    if scaling.share < share_min:
        typer.echo(f"MISSED: {scaling.share:.0%} of the rate, at least {share_min:.0%}")
        raise typer.Exit(EXIT_MISSED)


@app.command()
def soak(  # noqa: PLR0913 - one argument per option
    *,
    minutes: Annotated[float, typer.Option(min=0.05, help="Length of the load.")] = 20.0,
    rate: Annotated[int, typer.Option(min=2, help="Tasks per second.")] = 200,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between samples.")] = 10.0,
    retention_minutes: Annotated[
        float, typer.Option(min=0.01, help="Retention of finished tasks.")
    ] = 2.0,
    growth_max: Annotated[
        float,
        typer.Option(
            help="Maximum growth of memory and sizes, last quarter over second; exit code 3 above."
        ),
    ] = 1.25,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    schedulers: Annotated[int, typer.Option(min=1, help="Scheduler processes.")] = 1,
    payload_bytes: PayloadBytes = 256,
    out: Annotated[
        Path | None, typer.Option(help="Directory for soak.json and soak.html. [load-runs/TIME]")
    ] = None,
) -> None:
    """Run a steady load and track memory, table and index sizes, and dead tuples."""
    options = soaks.SoakOptions(
        minutes=minutes,
        rate=rate,
        every_seconds=every,
        retention_minutes=retention_minutes,
        growth_max=growth_max,
        workers=workers,
        schedulers=schedulers,
        payload_bytes=payload_bytes,
    )
    measured = run(soaks.run(options, say))
    for line in measured.lines():
        typer.echo(line)
    say(f"report: {soaks.save(measured, out or _new_directory('soak'))}")
    if not measured.flat:
        raise typer.Exit(EXIT_MISSED)


def _new_directory(what: str) -> Path:
    return Path("load-runs") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{what}"


def _print(measured: Measurement, json_file: Path | None) -> None:
    for line in measured.lines():
        typer.echo(line)
    if json_file is not None:
        json_file.write_text(json.dumps(measured.as_json(), indent=2) + "\n")


def _check_parent(json_file: Path | None) -> None:
    if json_file is not None and not json_file.parent.is_dir():
        raise typer.BadParameter(f"no such directory: {json_file.parent}", param_hint="--json")


if __name__ == "__main__":
    app()
