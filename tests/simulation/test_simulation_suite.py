"""``python -m chaos run --arena simulation`` end to end, without leftovers."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

import psutil
import pytest
from chaos_runs import RUN_SECONDS, SMALL, Chaos, chaos, home, scenario_file
from waiting import wait_until

from chaos.checker.verdict import check_file
from chaos.history.records import PhaseStart
from chaos.run.store import RunStore
from chaos.scenario.scenario import Scenario

__all__ = ["chaos", "home", "scenario_file"]  # fixtures


def below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def directories(processes: list[psutil.Process]) -> set[Path]:
    """Return the directories of the real servers."""
    found: set[Path] = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # a backend that is ending
            words = " ".join(process.cmdline())
            found |= {Path(each) for each in re.findall(r"\S*/holdfast-simulation-\w+", words)}
    return found


def test_simulated_run_is_kept_like_any_other(scenario_file: Path, chaos: Chaos) -> None:
    process = chaos("run", "./small.yaml", "--arena", "simulation", "--seed", "5")
    said, _ = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 0, said
    assert re.search(r"^small +true .* faults  2/2", said, re.MULTILINE), said
    assert re.search(r"^kill +1", said, re.MULTILINE), said  # the coverage
    (kept,) = RunStore(scenario_file.parent / ".holdfast" / "runs").entries()
    assert {"history.jsonl", "summary.json", "report.html", "junit.xml"} <= {
        path.name for path in kept.directory.iterdir()
    }
    judgement = check_file(kept.directory / "history.jsonl")
    assert (judgement.verdict, judgement.arena) == ("true", "simulation")
    assert judgement.meters.accepted == 40
    assert judgement.history.faults["murder#1"][-1].type == "end"
    phases = [record for record in judgement.history.records if isinstance(record, PhaseStart)]
    (core,) = [phase.core for phase in phases if phase.phase == "healed"]
    assert core == Scenario.model_validate(SMALL).core(5)


def test_many_true_runs_keep_only_the_suite_report(scenario_file: Path, chaos: Chaos) -> None:
    process = chaos("run", "./small.yaml", "--arena", "simulation", "--seed", "1", "--runs", "3")
    said, _ = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 0, said
    assert "3 of 3 true, 0 false, 0 unknown" in said
    meters = r"^small +true +accepted +40 .* faults  2/2 .* recovery +\d"
    assert len(re.findall(meters, said, re.MULTILINE)) == 3, said
    (kept,) = RunStore(scenario_file.parent / ".holdfast" / "runs").entries()
    assert kept.suite is not None
    assert [run.seed for run in sorted(kept.suite.runs, key=lambda run: run.seed)] == [1, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_simulation_leaves_nothing(
    scenario_file: Path, chaos: Chaos, number: signal.Signals
) -> None:
    many = ("--arena", "simulation", "--seed", "1", "--runs", "500")
    process = chaos("run", "./small.yaml", *many)
    runs = scenario_file.parent / ".holdfast" / "runs"

    def one_is_over() -> bool:
        assert process.poll() is None, process.communicate()
        return any(kept.suite and kept.suite.runs for kept in RunStore(runs).entries())

    wait_until(one_is_over, 60)  # then others are running
    theirs = below(process.pid)
    places = directories(theirs)
    assert len(places) >= 2
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    gone, left = psutil.wait_procs(theirs, timeout=30)
    assert not left
    assert len(gone) == len(theirs)
    wait_until(lambda: not any(place.exists() for place in places))
    if number != signal.SIGKILL:
        assert re.search(r"^\d+ of \d+ true, 0 false, 0 unknown", said, re.MULTILINE), said


def test_concurrent_runs_do_not_interfere(scenario_file: Path, chaos: Chaos) -> None:
    both = [
        chaos("run", "./small.yaml", "--arena", "simulation", "--seed", seed) for seed in ("3", "4")
    ]
    for process in both:
        said, _ = process.communicate(timeout=RUN_SECONDS)
        assert process.returncode == 0, said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("nonsense",), "no scenario 'nonsense'"),
        (("calm", "--mutant", "nonsense"), "no mutant 'nonsense'"),
        (("calm", "--app", "nonsense"), "no module 'nonsense'"),
    ],
)
def test_invalid_input_is_a_one_line_error(
    scenario_file: Path, chaos: Chaos, arguments: tuple[str, ...], complaint: str
) -> None:
    assert scenario_file.exists()
    process = chaos("run", *arguments, "--arena", "simulation")
    said, _ = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 2
    assert complaint in said
    assert "Traceback" not in said
