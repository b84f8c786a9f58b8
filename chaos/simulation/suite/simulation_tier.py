"""The tier of simulation: scenarios that execute the changed lines, up to the first kill."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chaos.history.records import ArenaName
from chaos.mutants.generated import GeneratedMutant
from chaos.mutants.generated.probes import Probes
from chaos.run.artifacts import RunFailed
from chaos.run.generated.trial import Fate, MutantTrial, Tier
from chaos.run.spec import RunResult, RunSpec
from chaos.scenario import scenario as scenarios
from chaos.simulation.suite.arena import SimulationArena
from chaos.simulation.suite.covering_scenarios import CoveringScenario, schedule
from chaos.simulation.suite.pool import Pool, WorkerFailed

_SEEDS = 8
# Of one run: a mutant may loop forever without any virtual time passing, or wait for a lock that
# nothing frees. Real time says little on a crowded machine, so most of it is processor time.
_RUN_PROCESSOR_SECONDS_MAX = 150.0
_RUN_SECONDS_MAX = 900.0
_CHECK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class SimulationTier:
    """Tries mutants under seeds from ``seed`` on (a ``TierRunner``)."""

    scenarios: Sequence[CoveringScenario]
    probes: Probes
    seed: int
    tier: Tier = Tier.SIMULATION

    async def attempt(self, mutant: GeneratedMutant, tree: Path) -> MutantTrial:
        """Simulate run after run in one worker process, until a verdict is false."""
        started = time.monotonic()
        probes = self.probes.of(mutant.file, mutant.line)
        chosen = schedule(self.scenarios, probes, _SEEDS, mutant.name)
        runs = list(enumerate(chosen, start=self.seed))
        trial = MutantTrial(mutant=mutant.name, tier=self.tier, fate=Fate.NOT_EXECUTED)
        if runs:
            with tempfile.TemporaryDirectory(prefix="holdfast-runs-") as directory:
                try:
                    async with Pool(1, tree).up() as pool:
                        trial = await _simulate(pool, trial, runs, Path(directory))
                except WorkerFailed as error:  # raised by the start; a run's own is a remark
                    trial = replace(trial, fate=Fate.DOES_NOT_BUILD, by=_last_line(error))
        return replace(trial, seconds=round(time.monotonic() - started, 1))


async def _simulate(
    pool: Pool, trial: MutantTrial, runs: Sequence[tuple[int, CoveringScenario]], directory: Path
) -> MutantTrial:
    arena, doubts = SimulationArena(pool), ""
    for tried, (seed, covering) in enumerate(runs, start=1):
        trial = replace(trial, fate=Fate.SURVIVED, tried=tried)
        where = f"{covering.name} seed {seed}"
        scenario = scenarios.find(covering.name)
        spec = RunSpec(ArenaName.SIMULATION, scenario, seed, directory, keep=False)
        try:
            outcome = (await _run(arena, pool, spec)).outcome
        except TimeoutError:
            return replace(trial, fate=Fate.KILLED, by=f"timeout in {where}")
        except WorkerFailed as error:
            return replace(trial, by=f"{where} was not judged: {_last_line(error)}")
        except RunFailed as error:
            outcome = error.outcome
        if outcome.verdict == "false":
            return replace(trial, fate=Fate.KILLED, by=f"{' '.join(outcome.laws or {})} in {where}")
        if outcome.verdict == "unknown":
            doubts = doubts or f"{where} was unknown: {'; '.join(outcome.doubts)}"
    return replace(trial, by=doubts)


async def _run(arena: SimulationArena, pool: Pool, spec: RunSpec) -> RunResult:
    """Simulate one run; TimeoutError if it hangs."""
    started, used = time.monotonic(), pool.processor_seconds
    running = asyncio.ensure_future(arena.run(spec))
    try:
        while not (await asyncio.wait([running], timeout=_CHECK_SECONDS))[0]:
            worked, lasted = pool.processor_seconds - used, time.monotonic() - started
            if worked > _RUN_PROCESSOR_SECONDS_MAX or lasted > _RUN_SECONDS_MAX:
                raise TimeoutError
        return running.result()
    finally:
        running.cancel()


def _last_line(error: WorkerFailed) -> str:
    return (str(error).strip().splitlines() or ["no message"])[-1]
