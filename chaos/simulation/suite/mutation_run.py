"""Run mutants in virtual time: each one under seed after seed, in several attempts.

Each mutant has a worker process of its own, which imports from the copy that it is planted in. The
number of seeds it takes is the median over the attempts, whose ranges of seeds do not overlap.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.history.records import ArenaName
from chaos.mutants import SOURCES, Mutant, plant
from chaos.run.artifacts import RunFailed
from chaos.run.mutation_run import KillAttempt, attempt_of, mutant_spec, run_mutants, until_killed
from chaos.simulation.suite.arena import SimulationArena
from chaos.simulation.suite.pool import Pool, WorkerFailed

# Real time, because a mutant may loop forever without any virtual time passing.
_RUN_SECONDS_MAX = 300.0


@dataclass(frozen=True, slots=True)
class MutationSettings:
    """``attempts`` per mutant, each with at most ``seeds`` seeds from ``seed`` on.

    ``processes``: mutants at a time. ``keep``: keep the runs in ``runs``; they can also be repeated
    from their seeds.
    """

    runs: Path
    seed: int
    seeds: int
    attempts: int
    processes: int
    keep: bool = False

    def ranges(self, mutant: Mutant) -> Iterator[range]:
        """Yield the seeds of each attempt; a covered mutant has to survive one seed per attempt."""
        if mutant.covered_by:
            yield range(self.seed, self.seed + self.attempts)
            return
        for first in range(self.seed, self.seed + self.attempts * self.seeds, self.seeds):
            yield range(first, first + self.seeds)


async def run_simulated_mutants(mutants: Sequence[Mutant], settings: MutationSettings) -> bool:
    """Run mutants; whether each that must be killed was killed.

    Raises:
        MutantError: a mutant does not match the sources.
        WorkerFailed: a worker process did not start.
    """
    with tempfile.TemporaryDirectory(prefix="holdfast-mutants-") as directory:

        async def attempts(mutant: Mutant) -> tuple[KillAttempt, ...]:
            return await _attempts(mutant, settings, Path(directory) / mutant.name)

        return await run_mutants(mutants, attempts, min(settings.processes, len(mutants)))


async def _attempts(
    mutant: Mutant, settings: MutationSettings, directory: Path
) -> tuple[KillAttempt, ...]:
    """Make all attempts; the first one that the mutant survives is the last."""
    tree = await asyncio.to_thread(plant, mutant, SOURCES, directory / "tree")
    runs = settings.runs if settings.keep else directory / "runs"
    attempts: list[KillAttempt] = []
    async with Pool(1, tree).up() as pool:
        attempt = _Attempt(mutant, SimulationArena(pool), runs, keep=settings.keep)
        for seeds in settings.ranges(mutant):
            attempts.append(await attempt.run(seeds))
            if not attempts[-1].killers:
                break
    return tuple(attempts)


class _Attempt:
    """Attempts to kill one mutant."""

    def __init__(self, mutant: Mutant, arena: SimulationArena, runs: Path, *, keep: bool) -> None:
        self._mutant = mutant
        self._arena = arena
        self._runs = runs
        self._keep = keep

    async def run(self, seeds: range) -> KillAttempt:
        """Try seed after seed; a broken worker ends the attempt."""
        seed = seeds.start

        async def once(next_seed: int) -> KillAttempt:
            nonlocal seed
            seed = next_seed
            spec = mutant_spec(
                ArenaName.SIMULATION, self._mutant, seed, self._runs, keep=self._keep
            )
            async with asyncio.timeout(_RUN_SECONDS_MAX):
                try:
                    return attempt_of(self._mutant, (await self._arena.run(spec)).outcome)
                except RunFailed as error:
                    return attempt_of(self._mutant, error.outcome, crashed=True)

        try:
            return await until_killed(seeds, once)
        except TimeoutError:
            trouble = f"seed {seed} did not end within {_RUN_SECONDS_MAX:.0f} s"
        except WorkerFailed as error:
            trouble = f"seed {seed}: {str(error).strip().splitlines()[-1]}"
        return KillAttempt(seed, runs=seed - seeds.start + 1, trouble=trouble)
