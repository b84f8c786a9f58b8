"""Mutation runs: what counts as killed, what is printed, and one end to end in each arena."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos.mutants import Mutant, MutantError, find
from chaos.report.outcome import Outcome
from chaos.run.artifacts import REFUSED
from chaos.run.mutation_run import (
    KillAttempt,
    MutantResult,
    MutationReport,
    attempt_of,
    drain_seconds,
    until_killed,
)
from chaos.simulation.suite import mutation_run as simulated
from chaos.simulation.suite.pool import WorkerFailed

SOURCES = Path(__file__).parents[2]
DUE, COVERED = find("finish_without_epoch"), find("finish_without_state")
HIDDEN = replace(DUE, name="hidden", unlive="the order is up to the kernel")
DEAD, ALIVE = KillAttempt(8, killers=("S1", "S8")), KillAttempt(9, runs=3)


def result_of(*attempts: KillAttempt) -> MutantResult:
    return MutantResult(DUE, attempts, 20.0)


FATES: Mapping[str, tuple[MutantResult, bool]] = {
    "S1 S8": (result_of(DEAD), True),
    "S1 S8 S9": (result_of(DEAD, replace(DEAD, killers=("S1", "S9"))), True),
    "SURVIVED": (result_of(DEAD, ALIVE), False),
    "SURVIVED (S4)": (result_of(replace(ALIVE, others=("S4",))), False),
    "SURVIVED (unknown)": (result_of(replace(ALIVE, doubts="x")), False),
    "not judged": (result_of(replace(ALIVE, trouble="no port")), False),
    "covered": (MutantResult(COVERED, (ALIVE,), 20.0), False),
    "left to simulation": (MutantResult(HIDDEN, (), 0.0), False),
}


@pytest.mark.parametrize("expected", FATES)
def test_table_shows_the_result_of_a_mutant(expected: str) -> None:
    mutant, killed = FATES[expected]
    assert mutant.outcome == expected
    assert mutant.killed is killed
    assert f" {expected} " in mutant.row()


def test_runs_to_kill_are_the_median_of_the_attempts() -> None:
    attempts = [replace(DEAD, runs=runs) for runs in (1, 7, 2)]
    assert result_of(*attempts).runs == 2
    assert re.search(r" 1.5 +20$", result_of(*attempts[::2]).row())


async def test_seeds_are_tried_until_the_mutant_is_killed() -> None:
    shot: list[int] = []

    async def run_seed(seed: int) -> KillAttempt:
        shot.append(seed)
        return KillAttempt(seed, killers=("S1",) if seed == 9 else ())

    assert await until_killed(range(7, 20), run_seed) == KillAttempt(9, runs=3, killers=("S1",))
    assert shot == [7, 8, 9]
    assert await until_killed(range(7, 9), run_seed) == KillAttempt(8, runs=2)
    with pytest.raises(ValueError, match="no seed"):
        await until_killed([], run_seed)


def test_only_named_invariants_kill_a_mutant() -> None:
    run = Outcome(scenario="x", seed=4, verdict="false", laws={"S4": 1, "S9": 2}, doubts=("d", "e"))
    assert attempt_of(DUE, run) == KillAttempt(4, killers=("S9",), others=("S4",), doubts="d; e")
    assert attempt_of(DUE, replace(run, laws=None)) == KillAttempt(4, doubts="d; e")


def test_doubt_kills_only_mutants_of_the_harness() -> None:
    doubtful = Outcome(scenario="x", seed=4, verdict="unknown", laws={}, doubts=("d",))
    harness = find("drain_given_up")
    assert attempt_of(harness, doubtful).killers == ("unknown",)
    assert attempt_of(replace(DUE, killers=("unknown",)), doubtful).killers == ()
    assert attempt_of(harness, doubtful, crashed=True).killers == ()
    refused = replace(doubtful, doubts=(f"{REFUSED}: EdgeRefused: over worker-1->postgres",))
    assert attempt_of(harness, refused, crashed=True).killers == ("unknown",)
    assert attempt_of(harness, replace(doubtful, verdict="true", doubts=())).killers == ()
    assert drain_seconds(harness) is None, "an open task is a doubt"


def test_only_liveness_mutants_need_the_whole_drain() -> None:
    assert drain_seconds(DUE) == 10.0
    assert drain_seconds(find("hints_once")) is None


@pytest.mark.parametrize(
    ("attempt", "good", "expected"),
    [
        (DEAD, True, "1 of 1 killed, 1 covered by a second guard, 1 left to simulation, in"),
        (ALIVE, False, "0 of 1 killed, 1 covered by a second guard, 1 left to simulation, in"),
    ],
)
def test_mutation_run_ends_with_the_table(
    attempt: KillAttempt, good: bool, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    board = MutationReport([DUE, COVERED, HIDDEN])
    board.add(MutantResult(HIDDEN, (), 0.0))
    board.add(MutantResult(COVERED, (ALIVE,), 5.0))
    board.add(result_of(attempt))
    assert board.close() is good
    said = capsys.readouterr().out
    assert expected in said
    assert HIDDEN.unlive in said
    table = said.partition("killed by")[2]
    rows = [table.index(f"\n{mutant.name} ") for mutant in (DUE, COVERED, HIDDEN)]
    assert rows == sorted(rows)


def test_incomplete_mutation_run_is_no_success() -> None:
    board = MutationReport([DUE, COVERED])
    board.add(result_of(DEAD))
    assert not board.close()


# --------------------------------------------------------------------------------- in simulation


class Pools:
    """Stand-ins for worker pools, whose answers are computed from the job."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.laws: dict[int, dict[str, int]] = {}
        self.error: BaseException | None = None

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[Pools]:
        yield self

    async def answers(self, jobs: Iterable[dict[str, Any]]) -> AsyncIterator[tuple[Any, Any]]:
        for job in jobs:
            self.jobs.append(job)
            await asyncio.sleep(0)
            if self.error is not None:
                raise self.error
            outcome = {"scenario": "x", "seed": job["seed"], "verdict": "true"}
            laws = self.laws.get(job["seed"], {})
            yield job, {"outcome": outcome | {"laws": laws}, "lines": []}


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> Pools:
    found = Pools()
    monkeypatch.setattr(simulated, "Pool", lambda *_: found)
    return found


async def killed(mutant: Mutant, tmp_path: Path, seeds: int = 10) -> bool:
    settings = simulated.MutationSettings(
        tmp_path / "runs", seed=100, seeds=seeds, attempts=3, processes=1
    )
    return await simulated.run_simulated_mutants([mutant], settings)


async def test_attempts_have_separate_seeds(
    pools: Pools, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pools.laws = {100: {"S9": 1}, 113: {"S9": 1}, 121: {"S1": 2}}
    assert await killed(DUE, tmp_path)
    assert [job["seed"] for job in pools.jobs] == [100, 110, 111, 112, 113, 120, 121]
    assert all(job["mutant"] == DUE.name and job["drain_seconds"] == 10.0 for job in pools.jobs)
    assert re.search(rf"^{DUE.name} +late_finish +S9 S1 +2 ", capsys.readouterr().out, re.MULTILINE)


async def test_one_survived_attempt_ends_the_mutation_run(
    pools: Pools, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pools.laws = {100: {"S9": 1}}
    assert not await killed(DUE, tmp_path, seeds=2)
    assert [job["seed"] for job in pools.jobs] == [100, 102, 103]
    assert "0 of 1 killed" in capsys.readouterr().out


async def test_covered_mutant_survives_its_runs(pools: Pools, tmp_path: Path) -> None:
    assert await killed(COVERED, tmp_path)
    assert [job["seed"] for job in pools.jobs] == [100, 101, 102]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (WorkerFailed("Traceback\nValueError: x"), "seed 100: ValueError: x"),
        (TimeoutError(), "300 s"),
    ],
)
async def test_failed_worker_is_not_judged(
    error: Exception,
    expected: str,
    pools: Pools,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pools.error = error
    assert not await killed(DUE, tmp_path)
    said = capsys.readouterr().out
    assert expected in said
    assert "not judged" in said


async def test_mutant_that_does_not_match_is_reported(pools: Pools, tmp_path: Path) -> None:
    unfit = replace(DUE, edits=(replace(DUE.edits[0], old="no such text anywhere"),))
    with pytest.raises(MutantError, match="does not match"):
        await killed(unfit, tmp_path)


# ------------------------------------------------------------------------------------ end to end


def mutants(*arguments: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chaos", "mutants", *arguments],
        cwd=SOURCES,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@pytest.mark.stack
@pytest.mark.parametrize("arena", ["live", "simulation"])
def test_mutation_run_kills_a_mutant_and_prints_its_row(arena: str, tmp_path: Path) -> None:
    options = ["--arena", arena, "--runs-directory", str(tmp_path / "runs"), "--starts", "1"]
    result = mutants("finish_without_ledger", *options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^finish_without_ledger +crowded +S11 +1 +\d+$", result.stdout, re.MULTILINE)
    assert "1 of 1 killed" in result.stdout


def test_unknown_mutant_exits_with_2() -> None:
    result = mutants("finish_without_leger", seconds=60)
    assert result.returncode == 2
    assert "finish_without_ledger" in result.stderr
    assert "Traceback" not in result.stderr
