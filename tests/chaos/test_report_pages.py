"""The page of a run: complete for each verdict, safe against hostile data, bounded in size."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace

import pytest
from life import Life
from report_reader import HOSTILE, Reader, found, judged, rendered, troubled, without_effects
from specimen import Specimen

from chaos.checker.verdict import judge
from chaos.history.history import History
from chaos.history.records import ArenaName, Effect, Event, Fault, Record
from chaos.report import catalogue as catalogues
from chaos.report import page as pages
from chaos.report.catalogue import Tag, catalogue, chosen
from chaos.report.finding import during, violated_invariants
from chaos.report.html import render_run
from chaos.report.injections import injections
from chaos.report.model import RunModel
from chaos.report.page import embedded, page, replay
from chaos.report.story import Stories, shortened
from chaos.report.timeline import timeline
from holdfast.model.lifecycle import Reason


@pytest.mark.parametrize("verdict", ["true", "false", "unknown"])
def test_every_verdict_has_a_self_contained_page(verdict: str) -> None:
    judgement = judged(verdict)
    text = render_run(page(judgement, 12.0))
    read = Reader(text)
    assert f"<title>{verdict}: specimen, seed 7</title>" in text
    assert "python -m chaos run ./specimen.yaml --seed 7" in "".join(read.words)
    for name, attributes in read.elements:
        for key in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(key) or "#"
            assert value.startswith(("#", "data:")), f"{name} {key}={value}"
    assert "@import" not in text
    assert "url(" not in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


def test_only_our_script_may_run() -> None:
    read = rendered(judged("true"))
    (policy,) = [a["content"] for tag, a in read.elements if a.get("http-equiv")]
    digest = base64.b64encode(hashlib.sha256(read.scripts[-1].encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy


def test_false_run_shows_violation_time_and_fault() -> None:
    run = troubled()
    words = " ".join(rendered(judge(without_effects(run))).words)
    assert "S11 violated 2 times" in words
    assert "SUCCEEDED with 0 ledger rows" in words
    assert "victim" in words


def test_unknown_run_shows_its_doubts() -> None:
    assert "fault murder#1 was injected, but not observed" in rendered(judged("unknown")).words


def test_hostile_strings_are_escaped() -> None:
    run = troubled()
    bad: Life = run.submit(HOSTILE).dispatch().claim("worker-2")
    bad.asked["payload"] = {"key": HOSTILE, HOSTILE: [HOSTILE]}
    bad.asked["name"] = HOSTILE
    run.complete(run.op("get", {"task_id": bad.task_id}), "info", {"error": HOSTILE})
    run.plan["hypothesis"] = f"A long enough hypothesis {HOSTILE}"

    def change(record: Record) -> Record | None:
        if isinstance(record, Fault):
            return replace(record, targets=(HOSTILE,), evidence={HOSTILE: {HOSTILE: HOSTILE}})
        return None if isinstance(record, Effect) else record

    judgement = judge(run.edited(change))
    harmless = rendered(judged("false"))
    read = rendered(replace(judgement, doubts=(HOSTILE,), mutant=HOSTILE))
    kinds = {tag for tag, _ in read.elements}
    assert kinds - {tag for tag, _ in harmless.elements} <= {"ul", "li"}
    assert len(read.scripts) == len(harmless.scripts) == 2
    assert read.scripts[1] == harmless.scripts[1]
    assert not [a for _, a in read.elements if any(key.startswith("on") for key in a)]
    (task,) = [task for task in read.data["tasks"] if task["key"] == HOSTILE]
    assert task["payload"] == {"key": HOSTILE, HOSTILE: [HOSTILE]}
    assert HOSTILE in "".join(read.words)


def test_embedded_json_cannot_end_its_element() -> None:
    text = embedded({"a": HOSTILE})
    assert not set(text) & set("<>&")
    assert json.loads(text) == {"a": HOSTILE}


def test_replay_command_names_seed_and_mutant() -> None:
    assert replay("calm", 7, None) == "python -m chaos run calm --seed 7"
    simulated = "python -m chaos run calm --seed 7 --arena simulation"
    assert replay("calm", 7, None, ArenaName.SIMULATION) == simulated
    assert replay("calm", 7, "a b") == "python -m chaos run calm --seed 7 --mutant 'a b'"


# -------------------------------------------------------------------------------------- the list


def test_interesting_tasks_come_first_and_are_never_omitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = troubled()
    for n in range(30):
        run.submit(f"ordinary {n}").dispatch().claim("worker-2").succeed()
    entries = catalogue(RunModel(judge(run.history())))
    assert entries[0].key == "victim"
    assert entries[0].tags == (Tag.STALE, Tag.LOST, Tag.RETRIED)
    few = chosen(entries, 11)
    assert len(few) == 11
    assert few[0].key == "victim"
    assert [entry.key for entry in chosen(entries, 0)] == ["victim"]
    assert chosen(entries, 1000) == entries
    monkeypatch.setattr(pages, "STORIES_MAX", 11)
    read = rendered(judge(run.history()))
    assert len(read.data["tasks"]) == 11
    assert "21 ordinary tasks are left out" in " ".join(read.words)


def test_every_violating_task_has_its_story() -> None:
    run = troubled()
    for n in range(20):
        run.submit(f"task {n}").dispatch().claim("worker-2").succeed()
    judgement = judge(without_effects(run))
    shown = chosen(catalogue(RunModel(judgement)), 0)
    assert {entry.task_id for entry in shown} == {v.task_id for v in judgement.violations}
    assert all(entry.laws == ("S11",) for entry in shown)
    assert all(Tag.VIOLATED in entry.tags for entry in shown)
    law = page(judgement).violated[0]
    assert len(law.findings) + law.more == 22
    assert catalogues.Tag.VIOLATED.value in [name for name, _ in page(judgement).tags]


def test_page_shows_the_story_of_the_history() -> None:
    run = troubled()
    judgement = judge(run.history())
    (task,) = [t for t in rendered(judgement).data["tasks"] if t["key"] == "victim"]
    texts = [line[2] for line in task["lines"]]
    lines = [line.text for line in Stories(judgement.history).of(task["id"])]
    assert texts == [text for text in lines if not text.startswith("-- ")]
    assert any("REFUSED" in text for text in texts)
    assert [op[1:3] for op in task["ops"]] == [["submit", "ok"]]


# ----------------------------------------------------------------------- faults and violations


def test_injections_show_tasks_in_flight() -> None:
    history = troubled().history()
    (injection,) = injections(history)
    assert (injection.fault_id, injection.name, injection.targets) == (
        "murder#1",
        "murder",
        ("worker-1",),
    )
    assert injection.in_flight is not None
    assert (injection.in_flight.open, injection.in_flight.running) == (1, 1)
    assert injection.observed is not None
    assert injection.end is not None
    (plan,) = found(history)
    assert (plan.observed, plan.times) == (1, 1)
    (unplanned,) = found(History([*Specimen().all_records(), *history.faults["murder#1"]]))
    assert (unplanned.times, unplanned.observed) == (0, 1)


def test_page_shows_planned_faults_that_were_never_injected() -> None:
    history = troubled().edited(lambda r: None if isinstance(r, Fault) else r)
    words = " ".join(rendered(judge(history)).words)
    assert "1 of 1 never injected" in words


def test_violation_names_the_fault_active_at_its_time() -> None:
    (injection,) = injections(troubled().history())
    assert injection.end is not None
    where = "murder#1 (kill on worker-1)"
    assert during((injection,), injection.start) == f"during {where}"
    assert during((injection,), injection.end + 0.5) == f"0.500 s after {where} ended"
    assert during((injection,), injection.start - 1) == ""


def test_shortest_excerpt_has_all_evidence() -> None:
    run = troubled()

    def stolen(record: Record) -> Record:
        if isinstance(record, Event) and record.reason == Reason.SUCCEEDED:
            return replace(record, actor=f"worker:{run.worker('worker-1')}")
        return record

    judgement = judge(run.edited(stolen))
    laws = {law.law: law for law in violated_invariants(RunModel(judgement), 5)}
    finding = laws["S9"].findings[0]
    assert finding.at is not None
    assert finding.actors
    marked = [part for part in finding.piece if getattr(part, "marked", False)]
    (violation,) = [
        v for v in judgement.violations if v.task_id == finding.task_id and v.invariant == "S9"
    ]
    assert len(marked) == len(violation.evidence)
    assert list(shortened([])) == []


def test_simultaneous_faults_have_separate_lanes() -> None:
    plans = [
        {"name": f"fault-{n}-{'very-long-' * 5}", "fault": "kill", "target": "worker-1", "at": 1}
        for n in range(15)
    ]
    run = Specimen(plan={"faults": plans})
    life = run.submit("a").dispatch()
    for plan in plans:
        run.inject(f"{plan['name']}#1", "kill", "worker-1")
    life.claim().succeed()
    judgement = judge(run.history())
    lanes = timeline(RunModel(judgement)).lanes
    assert len(lanes) == 15
    assert all(
        0 <= bar.left <= bar.left + bar.wide <= 100.01 for lane in lanes for bar in lane.bars
    )
    assert "fault-14" in render_run(page(judgement))
