"""What to do with a run that failed: make its plan smaller, and find the event to blame."""

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
from chaos.simulation.diagnosis.shrink import Shrinker, told, write_diagram, write_regression
from chaos.simulation.diagnosis.variants import Variants
from chaos.simulation.diagnosis.why import FUTURES, Inquiry, plot

_CLEAR = "\r\x1b[K"


@dataclass(frozen=True, slots=True)
class Failed:
    """A run that broke ``law``. ``directory``: where it is kept."""

    scenario: Scenario
    seed: int
    law: str
    directory: Path


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for in at most so many runs each (None: not at all).

    ``into``: the YAML file of the smaller scenario; None: in the directory of the run.
    """

    shrink_runs: int | None = None
    why_runs: int | None = None
    into: Path | None = None
    mutant: str | None = None
    apps: tuple[str, ...] = ()
    processes: int = 1

    @property
    def wanted(self) -> bool:
        """Whether there is anything to look for."""
        return self.shrink_runs is not None or self.why_runs is not None

    async def run(self, failed: Failed | None) -> None:
        """Prints what it finds about a failed run, and writes it beside the run.

        Raises:
            NotFailing: the same run does not break the law when it is made again.
            WorkerFailed: a simulating process broke.
            OSError: a file cannot be written.
        """
        if failed is None:
            typer.echo("no run is false: there is nothing to shrink or to explain", err=True)
            return
        law = failed.law
        path = self.into or failed.directory / f"{_name(failed)}.yaml"
        apart = Variants.up(self.processes, failed.seed, self.mutant, self.apps)
        async with apart as variants:
            scenario = base(failed.scenario, failed.seed, law, path.stem)
            (tried,) = await variants.of([scenario])
            if not tried.breaks(law):
                doubts = "".join(f"; {doubt}" for doubt in tried.doubts[:1])
                raise NotFailing(
                    f"seed {failed.seed} of {failed.scenario.id} did not violate {law} again: "
                    f"this time it is {tried.verdict}{doubts}"
                )
            if self.shrink_runs is not None:
                scenario = await _shrink(self, failed, variants, scenario, path)
            if self.why_runs is not None:
                await _ask_why(self, failed, variants, scenario)


class NotFailing(ChaosError):
    """The run did not fail again: there is nothing to search for."""


def regression_file(path: Path) -> Path:
    """The path, if a scenario can be written there.

    Raises:
        ValueError: it cannot; the message says why.
    """
    if path.suffix != ".yaml" or not re.fullmatch(r"[a-z][a-z0-9_]*", path.stem):
        raise ValueError(
            f"{path}: a name like lost_task.yaml is needed: it is the id of the scenario, so "
            "only lower case letters, digits and underscores before .yaml"
        )
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: there is no directory {path.parent}")
    return path


async def _shrink(
    wanted: Search, failed: Failed, variants: Variants, scenario: Scenario, path: Path
) -> Scenario:
    law, most = failed.law, wanted.shrink_runs or 0
    typer.echo(f"shrink {law}: {told(scenario)}")
    (tried,) = await variants.of([scenario])
    with _progress("shrink", variants, most) as progress:
        shrinker = Shrinker(variants, law, most, progress.step)
        smaller = (await shrinker.shrink(scenario, tried)).scenario
    end = await variants.told(smaller, law)
    broken = end.first(law)
    replay = _replay(wanted, failed, f"./{path.name}")
    mutant = f" with the mutant {wanted.mutant}" if wanted.mutant else ""
    found = f"Shrunk from {failed.scenario.id}: seed {failed.seed} violated {law}{mutant}."
    write_regression(path, smaller, [found, f"  {replay}"])
    typer.echo(f"smaller: {told(smaller)}; {path}")
    typer.echo(f"  replay: {_replay(wanted, failed, str(path))}")
    if broken is not None:
        title = f"{law} violated" + (f" by {broken.task}" if broken.task else "")
        page = path.with_suffix(".md")
        write_diagram(page, title, [f"{broken.message}.", f"`{replay}`"], end.diagram)
        typer.echo(f"  diagram: {page}")
    return smaller


async def _ask_why(wanted: Search, failed: Failed, variants: Variants, scenario: Scenario) -> None:
    tried = await variants.told(scenario, failed.law)
    blamed = tried.first(failed.law)
    if blamed is None or not tried.points:
        raise NotFailing(f"{failed.law} was violated by nothing that has a history to look at")
    most = max(FUTURES, wanted.why_runs or 0)
    with _progress("why", variants, most) as progress:
        curve = await Inquiry(variants, blamed, most, progress.step).ask(scenario, tried.points)
    lines = plot(curve, tried.points, tried.zero, blamed)
    path = failed.directory / "why.txt"
    write(path, "".join(f"{line}\n" for line in lines).encode())
    typer.echo("\n".join([*lines, f"why: {path}"]))


def _replay(wanted: Search, failed: Failed, file: str) -> str:
    mutant = f" --mutant {wanted.mutant}" if wanted.mutant else ""
    apps = "".join(f" --app {app}" for app in wanted.apps)
    return (
        f"python -m chaos run {file} --arena simulation --seed {failed.seed}{mutant}{apps} --trace"
    )


def _name(failed: Failed) -> str:
    """The id of the smaller scenario, which is that of its file."""
    return f"{failed.scenario.id}_seed_{failed.seed}_{failed.law.lower()}"


class _Progress:
    """Each step on a line of its own; on a terminal, how many runs were made below it."""

    def __init__(self, name: str, variants: Variants, most: int, stream: TextIO) -> None:
        self._name = name
        self._variants = variants
        self._start = variants.made
        self._most = most
        self._stream = stream
        self._live = stream.isatty()

    def step(self, what: str) -> None:
        """Something was found."""
        self._write(f"{self._line()}  {what}\n")

    def tick(self) -> None:
        """One more run is done."""
        if self._live:
            self._write(self._line())

    def close(self) -> None:
        """Leave the line free for what comes next."""
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
