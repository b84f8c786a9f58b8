"""Many seeds on all cores: a line for each run that is not true; then what was covered."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from chaos.book import Book
from chaos.mutants import SOURCES, find, plant
from chaos.report import outcome as outcomes
from chaos.report.outcome import Outcome
from chaos.report.page import replay
from chaos.runs import RunStore
from chaos.scenario import Scenario
from chaos.simulation.diagnosis.search import Failed
from chaos.simulation.stage.apps import beside
from chaos.simulation.suite.coverage import Coverage
from chaos.simulation.suite.pool import Pool
from chaos.simulation.suite.progress import Progress


@dataclass(frozen=True, slots=True)
class Wish:
    """How to simulate. ``story``: print every event of each run, or only those of ``task``."""

    runs: Path
    processes: int
    keep: bool = False
    mutant: str | None = None
    story: bool = False
    task: str | None = None
    apps: tuple[str, ...] = ()


class Suite:
    """Runs (scenario, seed) pairs and prints what came of them. ``failed``: the first false one."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._store = RunStore(wish.runs.absolute())
        self.coverage = Coverage()
        self._virtual_seconds = 0.0
        self._apps = "".join(f" --app {app}" for app in wish.apps)
        self._verdicts: dict[str, Counter[str]] = {}
        self.failed: Failed | None = None

    async def run(self, todo: Sequence[tuple[Scenario, int]]) -> bool:
        """Whether every verdict is true.

        Raises:
            AppError: a module of handlers cannot be simulated.
            MutantError: there is no such mutant, or it does not fit.
            WorkerFailed: a simulating process broke.
        """
        wish = self._wish
        todo = [(beside(scenario, wish.apps), seed) for scenario, seed in todo]
        with tempfile.TemporaryDirectory(prefix="holdfast-mutant-") as tree:
            sources = plant(find(wish.mutant), SOURCES, Path(tree)) if wish.mutant else None
            book = Book(self._store, todo, wish.mutant)
            progress = Progress(len(todo))
            async with Pool(min(wish.processes, len(todo)), sources).up() as pool:
                try:
                    async for job, answer in pool.answers(self._jobs(todo)):
                        self._remember(job, self._add(answer, book, progress))
                finally:
                    progress.close()
                    self._summarise(book)
        return book.all_true

    def _jobs(self, todo: Sequence[tuple[Scenario, int]]) -> Any:
        wish = self._wish
        for scenario, seed in todo:
            yield {
                "job": "run",
                "scenario": scenario.document,
                "seed": seed,
                "runs": str(self._store.root),
                "keep": wish.keep or len(todo) == 1,
                "mutant": wish.mutant,
                "story": wish.story,
                "task": wish.task,
                "apps": list(wish.apps),
            }

    def _remember(self, job: Mapping[str, Any], outcome: Outcome) -> None:
        if self.failed is None and outcome.verdict == "false" and outcome.laws:
            scenario = Scenario.model_validate(job["scenario"])
            directory = self._store.root / (outcome.directory or "")
            self.failed = Failed(scenario, outcome.seed, next(iter(outcome.laws)), directory)

    def _add(self, answer: dict[str, Any], book: Book, progress: Progress) -> Outcome:
        outcome = outcomes.parse(answer["outcome"])
        book.add(outcome)
        self._verdicts.setdefault(outcome.scenario, Counter())[outcome.verdict] += 1
        self._virtual_seconds += answer.get("virtual_seconds", 0.0)
        self.coverage.add(Coverage.parse(answer.get("coverage", {})))
        progress.add(outcome, answer.get("virtual_seconds", 0.0))
        if outcome.verdict != "true" or self._wish.story or book.planned == 1:
            progress.close()
            typer.echo("\n".join([*answer.get("story", []), *answer["lines"]]))
            if outcome.verdict != "true":
                command = replay(outcome.scenario, outcome.seed, outcome.mutant, "simulation")
                typer.echo(f"  replay: {command}{self._apps} --trace")
        return outcome

    def _summarise(self, book: Book) -> None:
        if len(self._verdicts) > 1:
            for scenario, counts in sorted(self._verdicts.items()):
                told = ", ".join(
                    f"{counts[v]} {v}" for v in ("true", "false", "unknown") if counts[v]
                )
                typer.echo(f"{scenario:<34}{told}")
        typer.echo(self.coverage.tables())
        wall = max(book.seconds, 0.001)
        typer.echo(
            f"{self._virtual_seconds:.0f} virtual seconds in {wall:.0f} s: "
            f"{self._virtual_seconds / wall:.0f} to 1"
        )
        book.close()
