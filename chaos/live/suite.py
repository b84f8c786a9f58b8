"""Many runs on one foundation: scenarios one after the other, and the hunt for mutants."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import typer

from chaos import scenario as scenarios
from chaos.live.run import Order, Report, run
from chaos.live.topology import Foundation
from chaos.mutants import MUTANTS, Mutant, find, plant
from chaos.report import terminal
from chaos.scenario import Scenario


class Suite:
    """Runs in order; histories go to ``runs``. Prints one line per run as it ends."""

    def __init__(self, runs: Path, *, keep: bool) -> None:
        self._runs = runs.absolute()
        self._keep = keep

    async def run(self, todo: Sequence[tuple[Scenario, int]], mutant: str | None) -> bool:
        """Run (scenario, seed) pairs; whether every verdict is true. Raises MutantError."""
        started, verdicts = time.monotonic(), []
        chosen = find(mutant) if mutant else None
        async with Foundation.laid() as foundation:
            planted = _plant(chosen, foundation) if chosen else None
            for scenario, seed in todo:
                report = await self._one(foundation, scenario, seed, planted)
                verdicts.append("unknown" if report is None else report.judgement.verdict)
        good = verdicts.count("true")
        typer.echo(
            f"{good} of {len(verdicts)} true, {verdicts.count('false')} false, "
            f"{verdicts.count('unknown')} unknown, in {time.monotonic() - started:.0f} s"
        )
        return good == len(verdicts)

    async def run_mutants(self, names: Sequence[str], seed: int) -> bool:
        """Run each mutant with the scenario that must catch it; whether all were caught."""
        mutants = [find(name) for name in names or MUTANTS]
        rows: list[str] = []
        survivors = 0
        async with Foundation.laid() as foundation:
            for mutant in mutants:
                planted = _plant(mutant, foundation)
                scenario = scenarios.find(mutant.scenario)
                report = await self._one(foundation, scenario, seed, planted)
                caught = report is not None and _caught(mutant, report)
                survivors += not caught
                rows.append(_row(mutant, report, caught=caught))
        typer.echo(f"{'mutant':<22} {'scenario':<14} {'verdict':<8} {'caught by':<12} seconds")
        for row in rows:
            typer.echo(row)
        typer.echo(f"{len(mutants) - survivors} of {len(mutants)} caught")
        return survivors == 0

    async def _one(
        self,
        foundation: Foundation,
        scenario: Scenario,
        seed: int,
        planted: tuple[Mutant, Path] | None,
    ) -> Report | None:
        """One run, printed; None when the harness itself failed, which proves nothing."""
        order = Order(
            scenario,
            seed,
            self._runs,
            keep=self._keep,
            sources=planted[1] if planted else None,
            mutant=planted[0].name if planted else None,
        )
        try:
            report = await run(order, foundation)
        except Exception as error:  # noqa: BLE001  the other scenarios are to be run all the same
            typer.echo(f"{scenario.id:<18} unknown  the harness failed (seed {seed})")
            for line in _reasons(error):
                typer.echo(f"  {line}")
            return None
        typer.echo(f"{terminal.line(report.judgement)}  {report.seconds:.0f} s")
        if details := terminal.details(report.judgement):
            typer.echo(details)
            typer.echo(f"  seed {seed}; history and logs: {report.directory}")
        return report


def _plant(mutant: Mutant, foundation: Foundation) -> tuple[Mutant, Path]:
    tree = foundation.directory / f"mutant-{mutant.name}"
    return mutant, tree if tree.exists() else plant(mutant, foundation.sources, tree)


def _caught(mutant: Mutant, report: Report) -> bool:
    return report.judgement.verdict == "false" and bool(_killers(mutant, report))


def _killers(mutant: Mutant, report: Report) -> list[str]:
    found = dict.fromkeys(violation.invariant for violation in report.judgement.violations)
    return [name for name in found if name in mutant.killers]


def _row(mutant: Mutant, report: Report | None, *, caught: bool) -> str:
    if report is None:
        return f"{mutant.name:<22} {mutant.scenario:<14} unknown"
    killers = " ".join(_killers(mutant, report)) if caught else "SURVIVED"
    verdict, seconds = report.judgement.verdict, report.seconds
    return f"{mutant.name:<22} {mutant.scenario:<14} {verdict:<8} {killers:<12} {seconds:.0f}"


def _reasons(error: BaseException) -> list[str]:
    """The leaves of an exception group, each as its lines."""
    if isinstance(error, BaseExceptionGroup):
        return [line for each in error.exceptions for line in _reasons(each)]
    return [f"{type(error).__name__}: {line}" for line in str(error).splitlines() or [""]]
