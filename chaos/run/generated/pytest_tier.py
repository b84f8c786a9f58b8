"""The tier of unit and server tests: those that execute the changed lines, up to the first kill."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
        """Run the tests that execute the changed lines, until one fails twice.

        A test that fails once may have failed without the mutant too, on a crowded machine: it is
        left out, and the others are run again.
        """
        started = time.monotonic()
        chosen = choose(self.tests, self.probes.of(mutant.file, mutant.line), _SECONDS_MAX)
        trial = MutantTrial(mutant=mutant.name, tier=self.tier, fate=Fate.NOT_EXECUTED)
        if chosen:
            await asyncio.to_thread(complete, tree)
        while chosen:
            report = await _run(chosen, tree)
            trial = replace(
                trial, fate=_fate(report), by=_killer(report, chosen), tried=len(report.tests)
            )
            failed = _failed(report, chosen)
            if failed is None or (await _run([failed], tree)).failed:
                break
            trial = replace(trial, fate=Fate.SURVIVED, by="")
            chosen = [test for test in chosen if test is not failed]
        return replace(trial, seconds=round(time.monotonic() - started, 1))


async def _run(tests: Sequence[CoveringTest], tree: Path) -> PytestReport:
    with tempfile.TemporaryDirectory(prefix="holdfast-tests-") as directory:
        scratch = Path(directory)
        nodes = scratch / "nodes"
        nodes.write_text("\n".join(test.node for test in tests), encoding="utf-8")
        options = ["-x", f"--timeout={_TEST_SECONDS_MAX}", f"@{nodes}"]
        limit = 3 * sum(test.seconds for test in tests) + _TEST_SECONDS_MAX + _START_SECONDS
        return await run_pytest(tree, options, scratch, limit)


def _fate(report: PytestReport) -> Fate:
    if report.failed and not (report.tests or report.timed_out):
        return Fate.DOES_NOT_BUILD  # pytest could not even import the tests
    return Fate.KILLED if report.failed else Fate.SURVIVED


def _failed(report: PytestReport, chosen: Sequence[CoveringTest]) -> CoveringTest | None:
    """Return the chosen test that failed; None if none did, or no single one can be named."""
    keys = {test.key for test in report.tests if test.problem}
    return next((test for test in chosen if junit_key(test.node) in keys), None)


def _killer(report: PytestReport, chosen: Sequence[CoveringTest]) -> str:
    """Name the test that failed, and say so if it did not end."""
    if report.timed_out:
        return "timeout"
    test = _failed(report, chosen)
    if test is None:
        return "the tests cannot be imported" if report.failed else ""
    name = test.node.removeprefix("tests/")
    hung = any(each.timed_out for each in report.tests)
    return f"timeout in {name}" if hung else name
