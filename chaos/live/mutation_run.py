"""Run mutants on real processes, each under consecutive seeds until an invariant catches it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chaos.history.records import ArenaName
from chaos.live.run import RealTimeArena
from chaos.live.topology import ProcessStackFactory
from chaos.mutants import Mutant
from chaos.run.artifacts import RunFailed
from chaos.run.mutation_run import KillAttempt, attempt_of, mutant_spec, run_mutants, until_killed


async def run_live_mutants(mutants: Sequence[Mutant], runs: Path, seed: int, *, keep: bool) -> bool:
    """Run mutants one after the other; whether each that must be killed was killed.

    Raises:
        MutantError: a mutant no longer fits the sources.
    """
    async with ProcessStackFactory.open() as stacks:
        arena = RealTimeArena(stacks)

        async def attempts(mutant: Mutant) -> tuple[KillAttempt, ...]:
            """Try seeds until it is killed or has survived all; a covered mutant only one."""
            if mutant.unlive:
                return ()

            async def once(next_seed: int) -> KillAttempt:
                spec = mutant_spec(ArenaName.LIVE, mutant, next_seed, runs, keep=keep)
                try:
                    return attempt_of(mutant, (await arena.run(spec)).outcome)
                except RunFailed as error:  # continue with the next seed and the other mutants
                    return KillAttempt(next_seed, trouble="; ".join(error.reasons))

            seeds = range(seed, seed + (1 if mutant.covered_by else mutant.runs_max))
            return (await until_killed(seeds, once),)

        return await run_mutants(mutants, attempts)
