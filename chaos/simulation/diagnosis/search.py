"""Diagnose a failed run: shrink its scenario, and find the event to blame."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import typer

from chaos.errors import ChaosError
from chaos.report.files import write
from chaos.scenario.scenario import Scenario
from chaos.simulation.diagnosis.reduce import base
from chaos.simulation.diagnosis.shrink import Shrinker, describe, write_diagram, write_regression
from chaos.simulation.diagnosis.variants import Variants
from chaos.simulation.diagnosis.why import FUTURES, Inquiry, plot

_CLEAR = "\r\x1b[K"


@dataclass(frozen=True, slots=True)
class Failed:
    """A run that violated ``law``, kept in ``directory``."""

    scenario: Scenario
    seed: int
    law: str
    directory: Path


@dataclass(frozen=True, slots=True)
class Search:
    """What to diagnose. ``shrink_runs``, ``why_runs``: limits of runs; None: skip it.

    ``into``: the YAML file of the smaller scenario (default: in the directory of the run).
    """

    shrink_runs: int | None = None
    why_runs: int | None = None
    into: Path | None = None
    mutant: str | None = None
    apps: tuple[str, ...] = ()
    processes: int = 1

    @property
    def wanted(self) -> bool:
        """Whether any diagnosis was requested."""
        return self.shrink_runs is not None or self.why_runs is not None

    async def run(self, failed: Failed | None) -> None:
        """Diagnose a failed run; print the findings and write them to its directory.

        Raises:
            NotFailing: the repeated run does not violate the invariant.
            WorkerFailed: a worker process failed.
            OSError: a file cannot be written.
        """
        if failed is None:
            typer.echo("no run is false: nothing to shrink or explain", err=True)
            return
        law = failed.law
        path = self.into or failed.directory / f"{_name(failed)}.yaml"
        pool = Variants.up(self.processes, failed.seed, self.mutant, self.apps)
        async with pool as variants:
            scenario = base(failed.scenario, failed.seed, law, path.stem)
            (tried,) = await variants.of([scenario])
            if not tried.breaks(law):
                doubts = "".join(f"; {doubt}" for doubt in tried.doubts[:1])
                raise NotFailing(
                    f"seed {failed.seed} of {failed.scenario.id} did not violate {law} again: "
                    f"the repeated run is {tried.verdict}{doubts}"
                )
            if self.shrink_runs is not None:
                scenario = await _shrink(self, failed, variants, scenario, path)
            if self.why_runs is not None:
                await _ask_why(self, failed, variants, scenario)


class NotFailing(ChaosError):
    """The repeated run did not fail, so there is nothing to diagnose."""


def regression_file(path: Path) -> Path:
    """Return the path if a scenario can be written there.

    Raises:
        ValueError: the name is no scenario id, or the directory does not exist.
    """
    if path.suffix != ".yaml" or not re.fullmatch(r"[a-z][a-z0-9_]*", path.stem):
        raise ValueError(
            f"{path}: the name must be a scenario id and .yaml, such as lost_task.yaml: "
            "lower case letters, digits and underscores"
        )
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: no directory {path.parent}")
    return path


async def _shrink(
    search: Search, failed: Failed, variants: Variants, scenario: Scenario, path: Path
) -> Scenario:
    law, most = failed.law, search.shrink_runs or 0
    typer.echo(f"shrink {law}: {describe(scenario)}")
    (tried,) = await variants.of([scenario])
    with _progress("shrink", variants, most) as progress:
        shrinker = Shrinker(variants, law, most, progress.step)
        smaller = (await shrinker.shrink(scenario, tried)).scenario
    end = await variants.explained(smaller, law)
    broken = end.first(law)
    replay = _replay(search, failed, f"./{path.name}")
    mutant = f" with the mutant {search.mutant}" if search.mutant else ""
    found = f"Shrunk from {failed.scenario.id}: seed {failed.seed} violated {law}{mutant}."
    write_regression(path, smaller, [found, f"  {replay}"])
    typer.echo(f"smaller: {describe(smaller)}; {path}")
    typer.echo(f"  replay: {_replay(search, failed, str(path))}")
    if broken is not None:
        title = f"{law} violated" + (f" by {broken.task}" if broken.task else "")
        page = path.with_suffix(".md")
        write_diagram(page, title, [f"{broken.message}.", f"`{replay}`"], end.diagram)
        typer.echo(f"  diagram: {page}")
    return smaller


async def _ask_why(search: Search, failed: Failed, variants: Variants, scenario: Scenario) -> None:
    tried = await variants.explained(scenario, failed.law)
    blamed = tried.first(failed.law)
    if blamed is None or not tried.points:
        raise NotFailing(f"the violation of {failed.law} has no trace to analyse")
    most = max(FUTURES, search.why_runs or 0)
    with _progress("why", variants, most) as progress:
        curve = await Inquiry(variants, blamed, most, progress.step).ask(scenario, tried.points)
    lines = plot(curve, tried.points, tried.zero, blamed)
    path = failed.directory / "why.txt"
    write(path, "".join(f"{line}\n" for line in lines).encode())
    typer.echo("\n".join([*lines, f"why: {path}"]))


def _replay(search: Search, failed: Failed, file: str) -> str:
    mutant = f" --mutant {search.mutant}" if search.mutant else ""
    apps = "".join(f" --app {app}" for app in search.apps)
    return (
        f"python -m chaos run {file} --arena simulation --seed {failed.seed}{mutant}{apps} --trace"
    )


def _name(failed: Failed) -> str:
    """Return the id of the smaller scenario, which is also the name of its file."""
    return f"{failed.scenario.id}_seed_{failed.seed}_{failed.law.lower()}"


class _Progress:
    """Prints each step on a line; on a terminal also an updating count of runs."""

    def __init__(self, name: str, variants: Variants, most: int, stream: TextIO) -> None:
        self._name = name
        self._variants = variants
        self._start = variants.made
        self._most = most
        self._stream = stream
        self._live = stream.isatty()

    def step(self, what: str) -> None:
        """Print a step."""
        self._write(f"{self._line()}  {what}\n")

    def tick(self) -> None:
        """Update the count after a run."""
        if self._live:
            self._write(self._line())

    def close(self) -> None:
        """Clear the updating line."""
        if self._live:
            self._write("")

    def _line(self) -> str:
        return f"{self._name} {self._variants.made - self._start}/{self._most} runs"

    def _write(self, text: str) -> None:
        self._stream.write(_CLEAR + text if self._live else text)
        self._stream.flush()


@contextlib.contextmanager
def _progress(name: str, variants: Variants, most: int) -> Iterator[_Progress]:
    progress = _Progress(name, variants, most, sys.stderr)
    variants.on_answer = progress.tick
    try:
        yield progress
    finally:
        progress.close()
