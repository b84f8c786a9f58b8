"""What several runs of one command print: meters, and in one line why a run proved nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from report_reader import judged
from specimen_scenario import specimen_scenario

from chaos.checker.verdict import Judgement
from chaos.history.records import ArenaName
from chaos.report import terminal
from chaos.report.outcome import outcome
from chaos.run.artifacts import RunFailed, failure
from chaos.run.spec import RunResult, RunSpec
from chaos.run.suite import run_suite
from chaos.run.suite_report import failure_lines, run_lines

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nOSError: no port'


@dataclass
class Judged:
    """An arena whose runs end like the judgements, or fail."""

    ends: Iterator[Judgement | Exception]
    seen: list[RunSpec] = field(default_factory=list)

    async def run(self, spec: RunSpec) -> RunResult:
        self.seen.append(spec)
        end = next(self.ends)
        if isinstance(end, Exception):
            raise end
        return RunResult(outcome=outcome(end), lines=run_lines(end, 3.2, spec.seed, None))


def specs(runs: Path, number: int) -> list[RunSpec]:
    scenario = specimen_scenario({}, 1)
    return [RunSpec(ArenaName.SIMULATION, scenario, seed, runs) for seed in range(number)]


def failed(spec: RunSpec, error: Exception) -> RunFailed:
    """Return the failure of a run of which nothing was recorded."""
    directory = spec.runs / "failed"
    directory.mkdir(parents=True, exist_ok=True)
    return failure(spec, directory, error, 1.0)


async def test_true_runs_print_their_meters_when_several_are_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arena = Judged(iter([judged("true"), judged("true")]))
    assert await run_suite(arena, specs(tmp_path, 2))
    said = capsys.readouterr().out
    meters = r"^specimen +true +accepted +\d+ +effects +\d+ .* faults +\d+/\d+ .* recovery .* 3 s$"
    assert len(re.findall(meters, said, re.MULTILINE)) == 2, said
    assert "2 of 2 true, 0 false, 0 unknown" in said
    assert len(arena.seen) == 2


async def test_failed_run_is_one_line_and_the_others_are_still_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = specs(tmp_path, 2)
    arena = Judged(iter([failed(planned[0], OSError(TRACEBACK)), judged("true")]))
    assert not await run_suite(arena, planned)
    said = capsys.readouterr().out
    reason = "the harness failed: OSError: Traceback (most recent call last): (2 more lines in"
    assert re.search(rf"^specimen +unknown +seed 0: {re.escape(reason)}", said, re.MULTILINE), said
    assert "x.py" not in said
    assert "1 of 2 true, 0 false, 1 unknown" in said


def test_failure_names_what_was_violated_until_then(tmp_path: Path) -> None:
    (spec,) = specs(tmp_path, 1)
    until_then = replace(outcome(judged("false")), directory="run-0")
    lines = failure_lines(RunFailed(["OSError: no port"], until_then), spec)
    assert re.fullmatch(r"specimen +false +seed 0: the harness failed: OSError: no port", lines[0])
    assert [line.split() for line in lines[1:-1]] == [
        [law, "violated", str(count), "times"] for law, count in (until_then.laws or {}).items()
    ]
    assert lines[1:-1]
    assert lines[-1] == f"  what was recorded: {tmp_path / 'run-0'}"


def test_unknown_run_says_its_reasons_in_one_line() -> None:
    judgement = replace(judged("unknown"), doubts=(f"S1 crashed: {TRACEBACK}", "too few"))
    (line,) = terminal.details(judgement).splitlines()
    assert line == f"  unknown: S1 crashed: {' '.join(TRACEBACK.split())}; too few"
