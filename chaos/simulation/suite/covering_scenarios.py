"""Which scenarios execute which lines of the product, as seen in one clean run of each."""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import typer
from pydantic import TypeAdapter

from chaos.errors import ChaosError
from chaos.history.records import ArenaName
from chaos.mutants import SOURCES
from chaos.mutants.generated.probes import Lines
from chaos.run.generated import executed_lines
from chaos.run.spec import RunSpec
from chaos.scenario import scenario as scenarios
from chaos.scenario.suites import suites
from chaos.simulation.suite.arena import SimulationArena
from chaos.simulation.suite.pool import Pool

_SEED = 1
_QUICK = 4


class CleanRunFailed(ChaosError):
    """A scenario is not true without a mutant."""


@dataclass(frozen=True, slots=True)
class CoveringScenario:
    """``seconds``: of real time of the clean run; ``lines``: of the product, by file."""

    name: str
    seconds: float
    lines: dict[str, list[int]]


_ADAPTER: TypeAdapter[CoveringScenario] = TypeAdapter(CoveringScenario)


async def covering_scenarios() -> list[CoveringScenario]:
    """Return the scenarios of the default suite, which has the storm, quickest first.

    Those that the cache lacks are measured.

    Raises:
        CleanRunFailed: a scenario is not true.
        WorkerFailed: a worker process broke.
    """
    sources = executed_lines.digest(SOURCES, ("system", "chaos/scenarios"))
    cache = executed_lines.CACHE / f"simulation-{sources}"
    found = []
    for name in suites()["default"]:
        kept = cache / f"{name}.json"
        if not kept.exists():
            typer.echo(f"measuring which lines {name} executes ...")
            measured = await _measure(name)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(_ADAPTER.dump_json(measured))
        found.append(_ADAPTER.validate_json(kept.read_bytes()))
    return sorted(found, key=lambda each: each.seconds)


def schedule(
    covering: Iterable[CoveringScenario], probes: Lines, runs: int, label: str
) -> list[CoveringScenario]:
    """Return the scenarios of ``runs`` runs, from those (quickest first) that execute a probe.

    The quickest come first, then the storm, then others in an order drawn by ``label``; after the
    last one the first again. No run: no scenario executes a probe.
    """
    chosen = [each for each in covering if executed_lines.executes(each.lines, probes)]
    storms = [each for each in chosen if each.name == "storm"]
    calmer = [each for each in chosen if each.name != "storm"]
    quick, others = calmer[:_QUICK], calmer[_QUICK:]
    random.Random(f"scenarios {label}").shuffle(others)
    return list(itertools.islice(itertools.cycle([*quick, *storms, *others]), runs))


async def _measure(name: str) -> CoveringScenario:
    with tempfile.TemporaryDirectory(prefix="holdfast-covering-") as directory:
        data = Path(directory) / "coverage"
        settings = executed_lines.settings_file(Path(directory))
        launcher = ("-m", "coverage", "run", f"--rcfile={settings}", f"--data-file={data}")
        spec = RunSpec(
            ArenaName.SIMULATION, scenarios.find(name), _SEED, Path(directory) / "runs", keep=False
        )
        async with Pool(1, launcher=launcher).up() as pool:
            started = time.monotonic()
            outcome = (await SimulationArena(pool).run(spec)).outcome
            seconds = time.monotonic() - started
        if outcome.verdict != "true":
            raise CleanRunFailed(
                f"{name} is {outcome.verdict} without a mutant. Look at it first: "
                f"python -m chaos run {name} --arena simulation --seed {_SEED}"
            )
        return CoveringScenario(name, round(seconds, 1), executed_lines.read(data, SOURCES))
