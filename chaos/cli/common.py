"""What the commands share: run to the end, print errors, exit with a code."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import NoReturn, TypeVar

import typer

from chaos.errors import ChaosError
from holdfast.devstack.go_build import GoBuildError
from holdfast.devstack.host import EmbeddedError

_T = TypeVar("_T")


def finish(work: Coroutine[None, None, _T]) -> _T:
    """Run a coroutine; print an error that the user can act on, and exit with 2.

    SIGTERM interrupts it in order, as Ctrl-C does.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return asyncio.run(work)
    except (ChaosError, EmbeddedError, GoBuildError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Print the message and exit with 2."""
    typer.echo(message, err=True)
    raise typer.Exit(2) from None


def exit_with(*, success: bool) -> NoReturn:
    """Exit with 0 or 1."""
    raise typer.Exit(0 if success else 1)
