"""Many runs on one foundation: scenarios one after the other, and their common report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import typer

from chaos.book import Book, failure_lines, lines
from chaos.filing import RunFailed
from chaos.live.ground import Ground
from chaos.live.run import Order, run
from chaos.live.topology import Foundation
from chaos.mutants import Mutant, find, plant
from chaos.report.outcome import Outcome
from chaos.runs import RunStore
from chaos.scenario import Scenario


class Suite:
    """Runs in order; histories and reports go to ``runs``. Prints one line per run as it ends.

    ``lay``: the ground they stand on, which is the arena.
    """

    def __init__(
        self,
        runs: Path,
        *,
        keep: bool,
        targets: Path | None = None,
        lay: Callable[[], AbstractAsyncContextManager[Ground]] = Foundation.laid,
    ) -> None:
        self._lay = lay
        self._store = RunStore(runs.absolute())
        self._keep = keep
        self._targets = targets

    async def run(self, todo: Sequence[tuple[Scenario, int]], mutant: str | None) -> bool:
        """Run (scenario, seed) pairs; whether every verdict is true. Raises MutantError."""
        chosen = find(mutant) if mutant else None
        async with self._lay() as ground:
            planted = _plant(chosen, ground) if chosen else None
            book = Book(self._store, todo, mutant)
            try:
                for scenario, seed in todo:
                    book.add(await self._one(ground, scenario, seed, planted))
            finally:
                book.close()
        return book.all_true

    async def _one(
        self,
        ground: Ground,
        scenario: Scenario,
        seed: int,
        planted: tuple[Mutant, Path] | None,
    ) -> Outcome:
        """One run, printed; unknown when the harness itself failed, which proves nothing."""
        order = Order(
            scenario,
            seed,
            self._store.root,
            keep=self._keep,
            sources=planted[1] if planted else None,
            mutant=planted[0].name if planted else None,
            targets=self._targets,
        )
        try:
            report = await run(order, ground)
        except RunFailed as error:  # the other scenarios are to be run all the same
            typer.echo("\n".join(failure_lines(error, scenario, seed, self._store)))
            return error.outcome
        told = lines(report.judgement, report.seconds, seed, report.directory)
        typer.echo("\n".join(told))
        return report.outcome


def _plant(mutant: Mutant, ground: Ground) -> tuple[Mutant, Path]:
    tree = ground.directory / f"mutant-{mutant.name}"
    return mutant, tree if tree.exists() else plant(mutant, ground.sources, tree)
