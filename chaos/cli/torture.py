"""``python -m chaos torture``: strike every process of a `holdfast up`, under load."""

from __future__ import annotations

import random
from typing import Annotated

import typer

from chaos.cli.common import exit_with, finish
from chaos.live.torture.torture import TortureOptions, torture


def torture_stack(
    *,
    seconds: Annotated[float, typer.Option(min=1, help="How long processes are struck.")] = 90.0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Draws victims, signals and pauses.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, max=200, help="Submits per second.")] = 10.0,
) -> None:
    """Kill, stop and terminate every process and server of a `holdfast up`, under load.

    Its own supervisor brings them back. Every task that was answered with 201 must end, and have
    its effect exactly once if it succeeded. Exits with 0 if nothing is lost, doubled or unfinished.
    """
    drawn = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    typer.echo(f"seed {drawn}")
    options = TortureOptions(seconds=seconds, seed=drawn, rate=rate)
    report = finish(torture(options, typer.echo))
    for line in report.lines():
        typer.echo(line)
    typer.echo(
        f"replay: python -m chaos torture --seconds {seconds:g} --seed {drawn} --rate {rate:g}"
    )
    exit_with(success=report.succeeded)
