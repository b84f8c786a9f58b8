"""The tier of unit and server tests: those that execute the changed lines, up to the first kill."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.mutants.generated import GeneratedMutant
from chaos.mutants.generated.probes import Probes
from chaos.run.generated.covering_tests import CoveringTest, choose, complete
from chaos.run.generated.pytest_run import PytestReport, junit_key, run_pytest
from chaos.run.generated.trial import Fate, MutantTrial, Tier

# Of tests per mutant, as they took without it. Lines that nearly all tests execute have more.
_SECONDS_MAX = 150.0
_TEST_SECONDS_MAX = 60
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PytestTier:
    """Tries mutants by ``tests`` (a ``TierRunner``)."""

    tests: Sequence[CoveringTest]
    probes: Probes
    tier: Tier = Tier.TESTS

    async def attempt(self, mutant: GeneratedMutant, tree: Path) -> MutantTrial:
        """Run the tests that execute the changed lines, until one fails."""
        started = time.monotonic()
        chosen = choose(self.tests, self.probes.of(mutant.file, mutant.line), _SECONDS_MAX)
        if not chosen:
            return MutantTrial(mutant=mutant.name, tier=self.tier, fate=Fate.NOT_EXECUTED)
        await asyncio.to_thread(complete, tree)
        with tempfile.TemporaryDirectory(prefix="holdfast-tests-") as directory:
            scratch = Path(directory)
            nodes = scratch / "nodes"
            nodes.write_text("\n".join(test.node for test in chosen), encoding="utf-8")
            options = ["-x", f"--timeout={_TEST_SECONDS_MAX}", f"@{nodes}"]
            limit = 3 * sum(test.seconds for test in chosen) + _TEST_SECONDS_MAX + _START_SECONDS
            report = await run_pytest(tree, options, scratch, limit)
        return MutantTrial(
            mutant=mutant.name,
            tier=self.tier,
            fate=_fate(report),
            by=_killer(report, chosen),
            tried=len(report.tests),
            seconds=round(time.monotonic() - started, 1),
        )


def _fate(report: PytestReport) -> Fate:
    if report.failed and not (report.tests or report.timed_out):
        return Fate.DOES_NOT_BUILD  # pytest could not even import the tests
    return Fate.KILLED if report.failed else Fate.SURVIVED


def _killer(report: PytestReport, chosen: Sequence[CoveringTest]) -> str:
    """Name the test that failed, and say so if it did not end."""
    if report.timed_out:
        return "timeout"
    names = {junit_key(test.node): test.node.removeprefix("tests/") for test in chosen}
    for test in report.tests:
        if test.problem:
            name = names.get(test.key, test.key)
            return f"timeout in {name}" if test.timed_out else name
    return "the tests cannot be imported" if report.failed else ""
