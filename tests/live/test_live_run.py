"""The whole arena on a small scenario: a run end to end, and nothing left behind after any end."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from chaos_runs import RUN_SECONDS, SMALL, Chaos, chaos, home, scenario_file
from leftovers import processes_of
from waiting import wait_until

from chaos.__main__ import app
from chaos.checker.verdict import check_file
from chaos.history import history
from chaos.history.records import PhaseStart
from chaos.run.store import RunStore
from chaos.scenario.scenario import Scenario
from holdfast.model.lifecycle import Reason

__all__ = ["chaos", "home", "scenario_file"]  # fixtures


def left_behind(directory: Path) -> set[str]:
    """Return processes still working in this directory, and its files besides the run's history."""
    files = {path.name for path in directory.iterdir()} - {"small.yaml", ".holdfast"}
    return files | {str(process) for process in processes_of(directory)}


def test_run_ends_with_a_verdict_and_leaves_only_its_history(
    scenario_file: Path, chaos: Chaos
) -> None:
    home = scenario_file.parent
    process = chaos("run", "./small.yaml", "--seed", "5")
    said, _ = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 0, said
    assert re.search(r"^small +true", said, re.MULTILINE), said
    (kept,) = RunStore(home / ".holdfast" / "runs").entries()
    run = kept.directory
    assert (home / ".holdfast" / "runs" / "latest").resolve() == run.resolve()
    files = {"history.jsonl", "summary.json", "report.html", "junit.xml"}
    assert {path.name for path in run.iterdir()} == files
    assert f"report: {run / 'report.html'}" in said
    assert re.search(r"murder: kill .*in flight \d+ \(\d+ run\); observed 1/1", said)
    assert left_behind(home) == set()
    judgement = check_file(run / "history.jsonl")
    assert judgement.verdict == "true"
    assert (judgement.meters.faults_felt, judgement.meters.accepted) == (2, 40)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["verdict"], summary["runs"][0]["seed"]) == ("true", 5)
    story = history.load(run / "history.jsonl")
    (observed,) = [record for record in story.faults["murder#1"] if record.type == "felt"]
    evidence = observed.evidence["worker-1"]
    assert evidence["exit"] == -signal.SIGKILL
    assert evidence["replaced_by"] != evidence["incarnation"]
    (observed,) = [record for record in story.faults["wrong_clock#1"] if record.type == "felt"]
    assert observed.evidence["scheduler-1"]["ahead"] == pytest.approx(3600, abs=1)
    # Only the core that the seed drew was healed; no other process ended a task after that.
    (healed,) = [r for r in story.records if isinstance(r, PhaseStart) and r.phase == "healed"]
    core = healed.core
    assert core == Scenario.model_validate(SMALL).core(5)
    assert len(core) == 3
    (lone,) = [name for name in core if name.startswith("worker-")]
    ended = [e for events in story.events.values() for e in events if e.reason == Reason.SUCCEEDED]
    after = [e for e in ended if story.seconds(e.at) > healed.at + 1]
    workers = {event.actor.removeprefix("worker:") for event in after}
    assert {story.workers[worker].label for worker in workers} <= {lone}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_killed_harness_leaves_nothing_behind(
    scenario_file: Path, chaos: Chaos, number: signal.Signals
) -> None:
    home = scenario_file.parent
    process = chaos("run", "./small.yaml", "--seed", "5")
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "  faults  " in line:
            break
    else:
        pytest.fail(f"the run ended before its faults began:\n{said}")
    assert len(left_behind(home)) > 5
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    wait_until(lambda: not left_behind(home))


def test_unknown_name_is_reported_with_a_suggestion(chaos: Chaos) -> None:
    process = chaos("run", "zombie_workr")
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "zombie_worker" in said


def test_help_lists_every_command() -> None:
    names = {command.name for command in app.registered_commands}
    assert names == {"run", "check", "mutants", "sweep", "torture", "trace", "report", "list"}
