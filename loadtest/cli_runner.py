"""Run a measurement from the command line: signals, errors, exit codes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

import typer

from loadtest.processes import LoadtestError

Result = TypeVar("Result")


def run(measurement: Coroutine[Any, Any, Result]) -> Result:
    """Run a measurement and return its result. SIGTERM and SIGHUP clean up like Ctrl-C.

    Raises:
        typer.Exit: 130 after a signal, 1 after a LoadtestError, which is printed.
    """
    try:
        return asyncio.run(_until_signal(measurement))
    except KeyboardInterrupt:
        typer.echo("loadtest: interrupted", err=True)
        raise typer.Exit(130) from None
    except LoadtestError as error:
        typer.echo(f"loadtest: {error}", err=True)
        raise typer.Exit(1) from error


def say(line: str) -> None:
    """Print progress to standard error; standard output is for figures only."""
    typer.echo(line, err=True)


async def _until_signal(measurement: Coroutine[Any, Any, Result]) -> Result:
    task = asyncio.ensure_future(measurement)

    def interrupt() -> None:
        # Only once: a second signal would cancel the cleanup.
        if not task.cancelling():
            say("stopping")
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
