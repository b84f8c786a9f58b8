"""Simulate many seeds on all cores; print the meters of each run, then the coverage."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from chaos.history.records import ArenaName
from chaos.mutants import SOURCES, find, plant
from chaos.report.page import replay
from chaos.run.spec import RunSpec
from chaos.run.store import RunStore
from chaos.run.suite_report import SuiteRecorder
from chaos.simulation.diagnosis.search import Failed
from chaos.simulation.environment.apps import beside
from chaos.simulation.suite.arena import SimulationArena, SimulationResult
from chaos.simulation.suite.coverage import Coverage
from chaos.simulation.suite.pool import Pool
from chaos.simulation.suite.progress import SuiteProgress


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """How to simulate. ``story``: print every event of each run, or only those of ``task``."""

    processes: int
    apps: tuple[str, ...] = ()
    story: bool = False
    task: str | None = None


class Suite:
    """Simulates specs and prints the results. ``failed``: the first false run."""

    def __init__(self, options: SuiteOptions) -> None:
        self._options = options
        self.coverage = Coverage()
        self._virtual_seconds = 0.0
        self._apps = "".join(f" --app {app}" for app in options.apps)
        self._verdicts: dict[str, Counter[str]] = {}
        self.failed: Failed | None = None

    async def run(self, specs: Sequence[RunSpec]) -> bool:
        """Run the specs, which share one run store and one mutant; whether all verdicts are true.

        Raises:
            AppError: a module of handlers cannot be simulated.
            MutantError: the mutant does not match the sources.
            WorkerFailed: a worker process broke.
        """
        options, mutant = self._options, specs[0].mutant
        specs = [
            replace(
                spec,
                scenario=beside(spec.scenario, options.apps),
                keep=spec.keep or len(specs) == 1,
            )
            for spec in specs
        ]
        with tempfile.TemporaryDirectory(prefix="holdfast-mutant-") as tree:
            sources = plant(find(mutant), SOURCES, Path(tree)) if mutant else None
            recorder = SuiteRecorder(RunStore(specs[0].runs), specs)
            progress = SuiteProgress(len(specs))
            async with Pool(min(options.processes, len(specs)), sources).up() as pool:
                arena = SimulationArena(pool, options.apps, story=options.story, task=options.task)
                try:
                    async for spec, result in arena.results(specs):
                        self._add(spec, result, recorder, progress)
                finally:
                    progress.close()
                    self._summarise(recorder)
        return recorder.all_true

    def _add(
        self,
        spec: RunSpec,
        result: SimulationResult,
        recorder: SuiteRecorder,
        progress: SuiteProgress,
    ) -> None:
        outcome = result.outcome
        recorder.add(outcome)
        self._verdicts.setdefault(outcome.scenario, Counter())[outcome.verdict] += 1
        self._virtual_seconds += result.virtual_seconds
        self.coverage.add(result.coverage)
        progress.add(outcome, result.virtual_seconds)
        if outcome.verdict != "true" or self._options.story or recorder.planned == 1:
            progress.close()
            typer.echo("\n".join([*result.story, *result.lines]))
            if outcome.verdict != "true":
                command = replay(
                    outcome.scenario, outcome.seed, outcome.mutant, ArenaName.SIMULATION
                )
                typer.echo(f"  replay: {command}{self._apps} --trace")
        else:
            progress.close()
            typer.echo(result.lines[0])  # the meters; faults and details only of a single run
        if self.failed is None and outcome.verdict == "false" and outcome.laws:
            directory = spec.runs / (outcome.directory or "")
            self.failed = Failed(spec.scenario, spec.seed, next(iter(outcome.laws)), directory)

    def _summarise(self, recorder: SuiteRecorder) -> None:
        if len(self._verdicts) > 1:
            for scenario, counts in sorted(self._verdicts.items()):
                verdicts = ", ".join(
                    f"{counts[v]} {v}" for v in ("true", "false", "unknown") if counts[v]
                )
                typer.echo(f"{scenario:<34}{verdicts}")
        typer.echo(self.coverage.tables())
        wall = max(recorder.seconds, 0.001)
        typer.echo(
            f"{self._virtual_seconds:.0f} virtual seconds in {wall:.0f} s: "
            f"{self._virtual_seconds / wall:.0f} to 1"
        )
        recorder.close()
