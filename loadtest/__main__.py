"""``python -m loadtest``: measurements from the command line."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from loadtest.drain import Options, run
from loadtest.figures import Figures
from loadtest.stack import LoadtestError

app = typer.Typer(
    help="How fast is Holdfast? Each command starts a stack of its own and removes it afterwards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _commands() -> None:
    """Keeps ``drain`` a command of its own while it is the only one."""


@app.command()
def drain(
    *,
    tasks: Annotated[int, typer.Option(min=1, help="No-op tasks in each round.")] = 20_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median is told.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    schedulers: Annotated[int, typer.Option(min=1, help="Scheduler processes.")] = 1,
    peer_tasks: Annotated[
        int, typer.Option(min=0, help="Jobs for Procrastinate in each round; 0 leaves it out.")
    ] = 3_000,
    rate: Annotated[int, typer.Option(min=2, help="Tasks per second of the steady load.")] = 500,
    latency_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds of the steady load; 0 leaves it out.")
    ] = 15.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures there, too.")
    ] = None,
) -> None:
    """Store no-op tasks over HTTP, drain them with worker processes, and Procrastinate beside."""
    if json_file is not None and not json_file.parent.is_dir():
        raise typer.BadParameter(f"there is no directory {json_file.parent}", param_hint="--json")
    options = Options(
        tasks=tasks,
        rounds=rounds,
        workers=workers,
        schedulers=schedulers,
        peer_tasks=peer_tasks,
        rate=rate,
        latency_seconds=latency_seconds,
    )
    try:
        figures = asyncio.run(_until_signal(options))
    except KeyboardInterrupt:
        typer.echo("loadtest: interrupted", err=True)
        raise typer.Exit(130) from None
    except LoadtestError as error:
        typer.echo(f"loadtest: {error}", err=True)
        raise typer.Exit(1) from error
    for line in figures.lines():
        typer.echo(line)
    if json_file is not None:
        json_file.write_text(json.dumps(figures.as_json(), indent=2) + "\n")


async def _until_signal(options: Options) -> Figures:
    """SIGTERM and SIGHUP clean up as Ctrl-C does."""
    task = asyncio.ensure_future(run(options, lambda line: typer.echo(line, err=True)))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


if __name__ == "__main__":
    app()
