"""The verdict (false > unknown > true) and the printed report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from life import instant
from specimen import Specimen
from traced import traced

from chaos.checker.invariants.registry import INVARIANTS
from chaos.checker.invariants.violation import Violation
from chaos.checker.sometimes import OCCURRENCES
from chaos.checker.verdict import check_file, judge
from chaos.history.history import History, HistoryError, HistoryWriter
from chaos.history.records import (
    ArenaName,
    Effect,
    Event,
    Fault,
    InFlight,
    PhaseStart,
    Record,
    Run,
    Sometimes,
    StaleWrite,
)
from chaos.report import files, summary, terminal
from chaos.report.story import story
from chaos.scenario.vocabulary import SOMETIMES
from holdfast.model.lifecycle import Reason

KILLS: dict[str, Any] = {
    "faults": [
        {
            "name": "murder",
            "fault": "kill",
            "target": "worker-1",
            "at": 1,
            "for": 1,
            "every": 2,
            "times": 2,
        }
    ]
}


def killed(*, observed: bool = True, sometimes: tuple[str, ...] = ()) -> Specimen:
    """A run whose worker is killed twice, as planned, with a task in flight."""
    run = Specimen(plan=KILLS | {"expect": {"sometimes": list(sometimes)}})
    life = run.submit("a").dispatch().claim("worker-1")
    run.inject("murder#1", "kill", "worker-1")
    life.end(Reason.LOST).dispatch().claim("worker-2")
    run.inject("murder#2", "kill", "worker-1", observed=observed)
    life.succeed()
    return run


def test_an_unknown_reason_is_a_violation_that_can_be_shown(tmp_path: Path) -> None:
    run = Specimen(plan={"expect": {"always": ["S6", "S13"]}})
    run.submit("a").dispatch().claim().succeed()
    life = run.submit("b").dispatch().claim().succeed()
    run.records.append(
        StaleWrite(
            task_id=life.task_id,
            at=instant(run.now),
            worker_id=run.worker("worker-1"),
            epoch=1,
            outcome="vanished",
            state_found="SUCCEEDED",
            epoch_found=2,
        )
    )
    unknown = [
        replace(r, reason="vanished") if isinstance(r, Event) and r.reason == "succeeded" else r
        for r in traced(run)
    ]
    judgement = judge(History(unknown))
    assert judgement.verdict == "false"
    assert {violation.invariant for violation in judgement.violations} == {"S6", "S8", "S13"}
    assert not judgement.doubts
    assert "(vanished)" in terminal.details(judgement)
    files.write_page(tmp_path / "report.html", judgement, 1.0)
    assert "vanished" in (tmp_path / "report.html").read_text()


def doubts_of(history: History) -> list[str]:
    judgement = judge(history)
    assert judgement.verdict == "unknown"
    assert not judgement.violations
    return list(judgement.doubts)


def test_tested_invariants_that_hold_are_true() -> None:
    judgement = judge(killed(sometimes=("lease_lost",)).history())
    assert (judgement.verdict, judgement.doubts) == ("true", ())
    assert judgement.sometimes == {"lease_lost": 1}
    meters = judgement.meters
    assert (meters.accepted, meters.effects) == (1, 1)
    assert (meters.faults_felt, meters.faults_planned) == (2, 2)
    assert (meters.in_flight, meters.running) == (1, 1)
    assert (meters.recovery_seconds, meters.allowed_seconds) == (0.0, 20.0)


def test_unobserved_fault_is_unknown() -> None:
    assert doubts_of(killed(observed=False).history()) == [
        "fault murder#2 was injected, but not observed"
    ]


def test_fault_that_was_never_injected_is_unknown() -> None:
    run = killed()
    history = run.edited(lambda r: None if isinstance(r, Fault) and r.fault_id == "murder#2" else r)
    assert doubts_of(history) == ["fault murder#2 was never injected"]


def test_fault_without_tasks_in_flight_is_unknown() -> None:
    def idle(record: Record) -> Record:
        if isinstance(record, Fault) and record.in_flight:
            return replace(record, in_flight=InFlight(open=0, running=0))
        return record

    assert doubts_of(killed().edited(idle)) == [
        "fault murder was injected while no task was in flight"
    ]


def test_fault_that_outlasts_the_heal_is_unknown() -> None:
    def late(record: Record) -> Record:
        if isinstance(record, Fault) and (record.fault_id, record.type) == ("murder#2", "end"):
            return replace(record, at=99.0)
        return record

    assert doubts_of(killed().edited(late)) == ["fault murder#2 ended after the heal"]


@pytest.mark.parametrize(("at", "late"), [(2.9, False), (3.1, True)])
def test_fault_that_began_off_its_time_is_unknown(at: float, late: bool) -> None:
    def moved(record: Record) -> Record:
        if isinstance(record, Fault) and record.fault_id == "murder#1":
            return replace(record, at=at + (record.type != "start"))
        if isinstance(record, Run):  # on real machines a heartbeat, here longer, is allowed
            return replace(record, arena=ArenaName.SIMULATION)
        return replace(record, at=9.0) if isinstance(record, PhaseStart) else record

    expected = ["fault murder#1 began at 3.1 s, planned was 1.0 s (at most 2 s off)"]
    assert list(judge(killed().edited(moved)).doubts) == (expected if late else [])


def test_fault_that_began_after_the_load_is_unknown() -> None:
    def moved(record: Record) -> Record:
        if isinstance(record, Fault) and record.fault_id == "murder#2":
            return replace(record, at=5.1)
        return replace(record, at=9.0) if isinstance(record, PhaseStart) else record

    assert "fault murder#2 began when the load was over" in doubts_of(killed().edited(moved))


def test_unplanned_fault_is_unknown() -> None:
    run = killed()
    run.inject("surprise#1", "kill", "worker-1")
    assert doubts_of(run.history()) == [
        "fault surprise#1 was injected, but the scenario does not plan it"
    ]


def test_required_occurrence_that_was_not_seen_is_unknown() -> None:
    run = killed(sometimes=("stale_write_refused", "stale_hint_delivered"))
    assert doubts_of(run.history()) == [
        "stale_write_refused was never seen",
        "stale_hint_delivered was never seen",
    ]
    run.lives[0].stale_finish("worker-1", 1)
    run.records.append(Sometimes(name="stale_hint_delivered", held=True))
    assert judge(run.history()).verdict == "true"


def test_too_few_accepted_submits_are_unknown() -> None:
    run = Specimen(plan={"workload": {"tasks": 10, "seconds": 5}})
    for number in range(4):
        run.submit(f"{number}").dispatch().claim().succeed()
    run.submit("unanswered", answer="info").dispatch().claim().succeed()
    assert doubts_of(run.history()) == ["only 4 submits were accepted, at least 5 are needed"]
    run.submit("4").dispatch().claim().succeed()
    assert judge(run.history()).verdict == "true"


@pytest.mark.parametrize("phase", ["faults", "healing", "healed", "drained"])
def test_incomplete_history_is_unknown(phase: str) -> None:
    run = killed()
    history = run.edited(lambda r: None if isinstance(r, PhaseStart) and r.phase == phase else r)
    assert f"the history is incomplete: it has no phase {phase}" in doubts_of(history)


def test_truncated_history_is_unknown_and_not_false() -> None:
    records = killed().all_records()
    for length in range(1, len(records)):
        prefix = History(records[:length])
        if "drained" not in prefix.phases:
            assert judge(prefix).verdict == "unknown"


def test_crashed_check_is_unknown_unless_another_is_violated() -> None:
    def crash(history: History) -> list[Violation]:
        raise ZeroDivisionError("by accident")

    crashing = dict(INVARIANTS) | {"S3": crash}
    judgement = judge(killed().history(), crashing)
    assert judgement.verdict == "unknown"
    assert judgement.doubts == ("S3 crashed: ZeroDivisionError: by accident",)
    broken = killed().edited(lambda r: None if isinstance(r, Effect) else r)
    assert judge(broken, crashing).verdict == "false"


def test_violation_outweighs_every_doubt() -> None:
    run = killed(observed=False)
    broken = run.edited(lambda r: None if isinstance(r, Effect) else r)
    judgement = judge(broken)
    assert judgement.verdict == "false"
    assert judgement.doubts


def test_only_expected_and_unconditional_invariants_are_judged() -> None:
    for expected, verdict in (([], "true"), (["S16"], "false")):
        run = Specimen(plan={"expect": {"always": expected}})
        run.submit("a").dispatch().claim().end(Reason.LOST).dispatch().claim().succeed()
        assert judge(run.history()).verdict == verdict
    run = Specimen(plan={"expect": {"always": ["S16"]}})
    run.submit("a").dispatch().claim().succeed()
    without = run.edited(lambda r: None if isinstance(r, Effect) else r)
    assert {violation.invariant for violation in judge(without).violations} == {"S11"}


def test_run_record_without_a_scenario_is_refused() -> None:
    history = killed().edited(
        lambda r: replace(r, scenario={"id": "x"}) if isinstance(r, Run) else r
    )
    with pytest.raises(HistoryError, match="the scenario in the run record: hypothesis: Field req"):
        judge(history)


def test_every_occurrence_of_the_vocabulary_is_defined() -> None:
    assert tuple(OCCURRENCES) == SOMETIMES


def test_every_occurrence_can_be_counted() -> None:
    run = Specimen(plan={"expect": {"sometimes": list(SOMETIMES)}})
    life = run.submit("a", effect="external", answer="info").submit_again().submit_again(secret=2)
    life.submit_again(other=True).dispatch().republish().claim().call_out().end(Reason.FAILED)
    life.dispatch().claim().end(Reason.LOST).dispatch().claim("worker-2").end(Reason.RELEASED)
    life.dispatch().claim("worker-2").succeed().stale_finish("worker-1", 3).cancel()
    run.submit("b").cancel()
    run.complete(run.op("list", {"query": {}}), "fail", {"status": 503, "problem": "unavailable"})
    invalid = {"key": "i", "name": "chaos_ledger", "payload": {"number": 9}, "priority": "first"}
    refused = {"status": 422, "problem": "invalid-request", "pointers": ["/priority"]}
    run.complete(run.op("submit", invalid), "fail", refused)
    run.submit("c").dispatch().claim("worker-2").cancel().succeed()
    unbegun = run.submit("u").dispatch().claim("worker-2")
    unbegun.owner, run.now = "scheduler:scheduler-1", run.now + 60.0
    late = {"error": {"type": "NotStarted"}}
    unbegun.end(Reason.RELEASED, detail=late).dispatch().claim("worker-2").succeed()
    poison = run.submit("p", poison=True)
    for _ in range(3):
        poison.dispatch().claim("worker-2").end(Reason.LOST)
    run.records += [
        Sometimes(name=name, held=True) for name, each in OCCURRENCES.items() if not each.count
    ]
    judgement = judge(run.history())
    assert (judgement.verdict, judgement.doubts) == ("true", ())
    counts = {"lease_lost": 4, "worker_replaced": 2}
    assert judgement.sometimes == dict.fromkeys(SOMETIMES, 1) | counts
    assert judge(Specimen(plan=run.plan).history()).sometimes == dict.fromkeys(SOMETIMES, 0)


# ------------------------------------------------------------------------------------ the report


def test_check_file_needs_only_the_file(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as writer:
        writer.write(*killed().all_records())
    judgement = check_file(path)
    assert judgement.verdict == "true"
    assert judgement == judge(killed().history())


def test_lines_of_runs_are_aligned() -> None:
    good = terminal.line(judge(killed().history()))
    other = terminal.line(judge(killed(observed=False).history()))
    assert len(good) == len(other)
    assert good.index("recovery") == other.index("recovery")
    assert "specimen" in good
    assert len(good) <= 165
    assert " true " in good
    assert "faults  2/2 " in good
    assert "recovery  0.0/20.0 s" in good
    assert "faults  1/2 " in other


def test_violation_is_shown_with_the_story_of_its_task() -> None:
    run = killed()
    task_id = run.lives[0].task_id
    judgement = judge(run.edited(lambda r: None if isinstance(r, Effect) else r))
    text = terminal.details(judgement)
    assert f"S11 violated by task {task_id}: SUCCEEDED with 0 ledger rows" in text
    assert "client-1 invokes submit" in text
    assert "-- kill on worker-1: start (murder#2)" in text
    assert "final read: SUCCEEDED" in text
    assert terminal.details(judge(run.history())) == ""


def test_long_story_is_shortened_to_its_evidence() -> None:
    run = Specimen()
    life = run.submit("a").dispatch()
    for _ in range(30):
        life.republish()
    life.claim().succeed()
    history = run.history()
    last = history.events[life.task_id][-1]
    lines = story(history, life.task_id, (last,))
    assert len(lines) < 15
    assert [line for line in lines if line.startswith("  >")] == [
        line for line in lines if "RUNNING -> SUCCEEDED" in line
    ]
    assert any("more" in line for line in lines)
    assert len(story(history, life.task_id)) > 30
    assert story(history, "nobody") == ["  (no record of it)"]


def test_summary_is_machine_readable() -> None:
    judgements = [judge(killed().history()), judge(killed(observed=False).history())]
    document = json.loads(orjson.dumps(summary.summarise(judgements)))
    assert document["verdict"] == "unknown"
    assert [run["verdict"] for run in document["runs"]] == ["true", "unknown"]
    assert document["runs"][1]["doubts"] == ["fault murder#2 was injected, but not observed"]
    assert document["runs"][0]["meters"]["faults_felt"] == 2
    broken = killed().edited(lambda r: None if isinstance(r, Effect) else r)
    summarised = summary.summarise([*judgements, judge(broken)])
    assert summarised["verdict"] == "false"
    assert summarised["runs"][2]["violations"][0]["invariant"] == "S11"
    assert summary.summarise([])["verdict"] == "unknown"
