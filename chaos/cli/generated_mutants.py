"""``python -m chaos mutants --generated``: how many unplanned bugs does each tier notice?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import typer

from chaos.mutants import SOURCES
from chaos.mutants.generated import draw, product_files
from chaos.mutants.generated.equivalent import equivalent
from chaos.mutants.generated.probes import Probes
from chaos.run.generated.campaign import Campaign
from chaos.run.generated.covering_tests import covering_tests
from chaos.run.generated.pytest_tier import PytestTier
from chaos.run.generated.results import Results
from chaos.run.generated.table import survivors, table, tried_mutants
from chaos.run.generated.trial import Tier, TierRunner
from chaos.simulation.suite.covering_scenarios import covering_scenarios
from chaos.simulation.suite.simulation_tier import SimulationTier


@dataclass(frozen=True, slots=True)
class GeneratedRun:
    """The options of the command. ``results``: the file that a run resumes from."""

    number: int
    seed: int
    tiers: Collection[Tier]
    results: Path
    hours: float | None
    processes: int

    async def run(self) -> bool:
        """Try the mutants and print what was found; whether each was killed by some tier.

        Raises:
            MutantError: the sources have fewer mutants.
            ChaosError: a scenario or the tests fail without a mutant.
        """
        mutants = draw(SOURCES, self.number, self.seed)
        results = Results(self.results)
        try:
            campaign = Campaign(mutants, await self._runners(), results, self.hours, self.processes)
            await campaign.run()
        finally:  # also after Ctrl-C
            tried = tried_mutants(mutants, results, equivalent())
            for line in (*survivors(tried), "", *table(tried)):
                typer.echo(line)
            typer.echo(f"\n{len(tried)} of {len(mutants)} tried, seed {self.seed}: {self.results}")
        return len(tried) == len(mutants) and not any(each.survived for each in tried)

    async def _runners(self) -> list[TierRunner]:
        probes = Probes(SOURCES, product_files(SOURCES))
        runners: list[TierRunner] = []
        if Tier.SIMULATION in self.tiers:
            runners.append(SimulationTier(await covering_scenarios(), probes, self.seed))
        if Tier.TESTS in self.tiers:
            runners.append(PytestTier(await covering_tests(), probes))
        return runners
