"""Run scenarios in an arena one after the other; print each and report on all of them."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from chaos.run.artifacts import RunFailed
from chaos.run.spec import Arena, RunSpec
from chaos.run.store import RunStore
from chaos.run.suite_report import SuiteRecorder, failure_lines


async def run_suite(arena: Arena, specs: Sequence[RunSpec]) -> bool:
    """Run the specs, which share one run store and one mutant; whether every verdict is true.

    A failure of the harness makes its run unknown; the other runs are still made.

    Raises:
        MutantError: the mutant does not fit the sources.
    """
    recorder = SuiteRecorder(RunStore(specs[0].runs), specs)
    try:
        for spec in specs:
            try:
                result = await arena.run(spec)
            except RunFailed as error:
                outcome, lines = error.outcome, failure_lines(error, spec)
            else:
                outcome, lines = result.outcome, result.lines
            typer.echo("\n".join(lines))
            recorder.add(outcome)
    finally:
        recorder.close()
    return recorder.all_true
