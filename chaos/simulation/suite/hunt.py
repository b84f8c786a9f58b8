"""The hunt in virtual time: each guard switched off in turn, seed after seed, from several starts.

Every mutant has a worker process of its own, which imports from the copy it is planted in; so many
of them at a time as there are processes. How many seeds it takes is told as the median over the
starts, each of which has a range of seeds of its own.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos import scenario as scenarios
from chaos.hunting import Board, Hunted, Start, drain_seconds, judged, pursue
from chaos.mutants import MUTANTS, SOURCES, Mutant, find, plant
from chaos.report import outcome as outcomes
from chaos.simulation.suite.pool import Pool, WorkerFailed

# Of real time: a mutant may well turn in circles in no virtual time at all.
_RUN_SECONDS_MAX = 300.0


@dataclass(frozen=True, slots=True)
class Chase:
    """How to hunt: from ``seed`` on, ``starts`` times at most ``seeds`` seeds for each mutant.

    ``keep``: the runs stay in ``runs``; else a seed is all it takes to have one again.
    """

    runs: Path
    seed: int
    seeds: int
    starts: int
    processes: int
    keep: bool = False

    def ranges(self, mutant: Mutant) -> Iterator[range]:
        """The seeds of each start; one that is covered has to survive as many runs instead."""
        if mutant.covered_by:
            yield range(self.seed, self.seed + self.starts)
            return
        for first in range(self.seed, self.seed + self.starts * self.seeds, self.seeds):
            yield range(first, first + self.seeds)


class Hunt:
    """Hunts mutants, ``processes`` at a time."""

    def __init__(self, chase: Chase) -> None:
        self._chase = chase

    async def run(self, names: Sequence[str]) -> bool:
        """Hunt these mutants (none named: all); whether each that must be killed was killed.

        Raises:
            MutantError: no such mutant, or one that does not fit the sources any more.
            WorkerFailed: a simulating process did not even start.
        """
        chosen = [find(name) for name in names or MUTANTS]
        board, todo = Board(chosen), iter(chosen)

        async def work(directory: Path) -> None:
            for mutant in todo:
                board.add(await self._hunt(mutant, directory / mutant.name))

        with tempfile.TemporaryDirectory(prefix="holdfast-hunt-") as directory:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._chase.processes, len(chosen))):
                        group.create_task(work(Path(directory)))
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
        return board.close()

    async def _hunt(self, mutant: Mutant, directory: Path) -> Hunted:
        """From every start; one that it survives is the last."""
        started = time.monotonic()
        starts: list[Start] = []
        tree = await asyncio.to_thread(plant, mutant, SOURCES, directory / "tree")
        runs = self._chase.runs.absolute() if self._chase.keep else directory / "runs"
        shooting = _Shooting(mutant, runs, keep=self._chase.keep)
        async with Pool(1, tree).up() as pool:
            for seeds in self._chase.ranges(mutant):
                starts.append(await shooting.start(seeds, pool))
                if not starts[-1].killers:
                    break
        return Hunted(mutant, tuple(starts), time.monotonic() - started)


class _Shooting:
    """Runs of one mutant."""

    def __init__(self, mutant: Mutant, runs: Path, *, keep: bool) -> None:
        self._mutant = mutant
        self._job = {
            "job": "run",
            "scenario": scenarios.find(mutant.scenario).document,
            "runs": str(runs),
            "keep": keep,
            "mutant": mutant.name,
            "drain_seconds": drain_seconds(mutant),
        }

    async def start(self, seeds: range, pool: Pool) -> Start:
        """Until it is killed; where the worker itself breaks, that is the end of it."""
        seed = seeds.start

        async def shoot(next_seed: int) -> Start:
            nonlocal seed
            seed = next_seed
            async with asyncio.timeout(_RUN_SECONDS_MAX):
                async for _, answer in pool.answers([self._job | {"seed": seed}]):
                    return judged(self._mutant, outcomes.parse(answer["outcome"]))
            raise WorkerFailed("no answer")

        try:
            return await pursue(seeds, shoot)
        except TimeoutError:
            trouble = f"seed {seed} was not through after {_RUN_SECONDS_MAX:.0f} s"
        except WorkerFailed as error:
            trouble = f"seed {seed}: {str(error).strip().splitlines()[-1]}"
        return Start(seed, runs=seed - seeds.start + 1, trouble=trouble)
