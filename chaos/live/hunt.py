"""The hunt on real processes: each guard switched off in turn, until its scenario ends false."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from chaos import scenario as scenarios
from chaos.filing import RunFailed
from chaos.hunting import Board, Hunted, Start, drain_seconds, judged, pursue
from chaos.live.run import Order, run
from chaos.live.topology import Foundation
from chaos.mutants import MUTANTS, Mutant, find, plant


class Hunt:
    """Runs mutants one after the other."""

    def __init__(self, runs: Path, seed: int, *, keep: bool) -> None:
        self._runs = runs.absolute()
        self._seed = seed
        self._keep = keep

    async def run(self, names: Sequence[str]) -> bool:
        """Hunt these mutants (none named: all); whether each that must be killed was killed.

        Raises:
            MutantError: no such mutant, or one that does not fit the sources any more.
        """
        chosen = [find(name) for name in names or MUTANTS]
        board = Board(chosen)
        async with Foundation.laid() as foundation:
            for mutant in chosen:
                board.add(await self._hunt(mutant, foundation))
        return board.close()

    async def _hunt(self, mutant: Mutant, foundation: Foundation) -> Hunted:
        """Seed after seed until it is killed or has survived all; one that is covered: once."""
        started = time.monotonic()
        if mutant.unlive:
            return Hunted(mutant, (), 0.0)
        tree = foundation.directory / f"mutant-{mutant.name}"
        await asyncio.to_thread(plant, mutant, foundation.sources, tree)
        seeds = range(self._seed, self._seed + (1 if mutant.covered_by else mutant.runs_max))
        start = await pursue(seeds, lambda seed: self._once(mutant, seed, tree, foundation))
        return Hunted(mutant, (start,), time.monotonic() - started)

    async def _once(self, mutant: Mutant, seed: int, tree: Path, foundation: Foundation) -> Start:
        order = Order(
            scenarios.find(mutant.scenario),
            seed,
            self._runs,
            keep=self._keep,
            sources=tree,
            mutant=mutant.name,
            drain_seconds=drain_seconds(mutant),
        )
        try:
            report = await run(order, foundation)
        except RunFailed as error:  # the other mutants are to be hunted all the same
            return Start(seed, trouble="; ".join(error.reasons))
        return judged(mutant, report.outcome)
