"""Doubts about faults: whether each lasted, hit and did what the scenario plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from observed import evidence
from specimen import Specimen

from chaos.checker.doubts import doubts_of
from chaos.checker.evidence import proofs
from chaos.history.history import History
from chaos.history.records import ArenaName, Exit, Fault, Record
from chaos.scenario.faults import FaultSpec
from chaos.scenario.scenario import Scenario
from chaos.scenario.vocabulary import FAULTS
from holdfast.model.lifecycle import Reason

PAUSE = {"name": "frozen", "fault": "pause", "target": "worker-1", "at": 1, "for": 4}
STALL = {
    "name": "cut",
    "fault": "latency",
    "target": "worker-*->redis",
    "pick": 1,
    "attributes": {"latency": 600_000},
    "after": {"event": "claimed"},
    "for": 0.5,
    "every": 2,
    "times": 2,
}


def faulty(plan: dict[str, Any], target: str) -> Specimen:
    """A run in which a fault hits a target as often as planned, while a task is in flight."""
    run = Specimen(plan={"faults": [plan]})
    life = run.submit("a").dispatch().claim("worker-2")
    for number in range(plan.get("times", 1)):
        run.now = max(run.now, 1.0 + number * plan.get("every", 0.0))
        run.inject(f"{plan['name']}#{number + 1}", plan["fault"], target)
    life.succeed()
    return run


def found(history: History) -> list[str]:
    return list(doubts_of(history, Scenario.model_validate(history.run.scenario), history))


def changed(run: Specimen, change: Callable[[Fault], Fault | None]) -> list[str]:
    """Return the doubts after a change of the records of faults; None drops one."""

    def edit(record: Record) -> Record | None:
        return change(record) if isinstance(record, Fault) else record

    return found(run.edited(edit))


@pytest.mark.parametrize(
    ("plan", "target"), [(PAUSE, "worker-1"), (STALL, "worker-1->redis")], ids=["pause", "stall"]
)
def test_faults_as_planned_are_not_doubted(plan: dict[str, Any], target: str) -> None:
    assert found(faulty(plan, target).history()) == []


# ------------------------------------------------------------------------------------------ length


@pytest.mark.parametrize(
    ("held", "doubt"),
    [
        ((), "fault frozen#1 was not held"),
        ((3.5,), "fault frozen#1 was held for 3.50 s, planned was 4.00 s"),
        ((4.0, 0.05), "fault frozen#1 was held for 0.05 s, planned was 4.00 s"),
        ((4.5,), "fault frozen#1 was held for 4.50 s, but lasted 4.02 s"),
    ],
)
def test_fault_shorter_or_longer_than_planned(held: tuple[float, ...], doubt: str) -> None:
    def edit(record: Fault) -> Fault:
        return replace(record, held_seconds=held) if record.type == "end" else record

    assert changed(faulty(PAUSE, "worker-1"), edit) == [doubt]


def test_fault_that_outlasts_its_plan() -> None:
    run = faulty(PAUSE | {"for": 30}, "worker-1")
    run.plan["faults"] = [PAUSE]
    assert found(run.history()) == ["fault frozen#1 was held for 30.00 s, planned was 4.00 s"]


def test_event_may_end_a_fault_early() -> None:
    run = faulty(PAUSE, "worker-1")
    run.plan["faults"] = [PAUSE | {"for": 60, "until": {"event": "lost"}}]
    assert found(run.history()) == []


def test_fault_without_a_duration_lasts_to_the_end_of_the_load() -> None:
    run = faulty({key: value for key, value in PAUSE.items() if key != "for"}, "worker-1")
    assert found(run.history()) == []

    def early(record: Fault) -> Fault:
        return replace(record, at=2.0, held_seconds=(0.5,)) if record.type == "end" else record

    assert changed(run, early) == [
        "fault frozen#1 ended at 2.0 s, planned was the end of the load, 5.0 s"
    ]


def test_fault_without_end_or_with_two() -> None:
    run = faulty(PAUSE, "worker-1")
    assert changed(run, lambda r: None if r.type == "end" else r) == ["fault frozen#1 has no end"]
    run.records.append(next(r for r in run.records if isinstance(r, Fault)))
    assert "fault frozen#1 was injected more than once" in found(run.history())


def test_repeats_follow_the_first_injection() -> None:
    def late(record: Fault) -> Fault:
        return replace(record, at=record.at + 6.0 * (record.fault_id == "cut#2"))

    run = faulty(STALL, "worker-1->redis")
    run.now = 20.0
    (doubt,) = changed(run, late)
    assert doubt.startswith("fault cut#2 began at 9.0 s, planned was 3.1 s")


# ---------------------------------------------------------------------------------------- evidence


def plan_of(name: str, target: str) -> FaultSpec:
    attributes = dict.fromkeys(FAULTS[name].attributes, 40)
    return FaultSpec.model_validate(
        {"fault": name, "target": target, "at": 1, "for": 0.02, "attributes": attributes}
    )


EVERY = [
    (name, target)
    for name, kind in FAULTS.items()
    for target in ("worker-1->redis", "worker-1", "postgres", "redis")
    for each in kind.target_kinds
    if (each.value.startswith("an edge")) == ("->" in target)
    and (each.value.startswith("a process")) == (target == "worker-1")
    and (target not in {"postgres", "redis"} or target in kind.servers)
]


def test_every_fault_needs_evidence_in_every_arena() -> None:
    kinds = {(kind, name) for name, fault in FAULTS.items() for kind in fault.target_kinds}
    for arena in ArenaName:
        assert proofs(arena).keys() == kinds
        assert all(proof.needs for proof in proofs(arena).values())


@pytest.mark.parametrize(("name", "target"), EVERY)
def test_evidence_shows_its_fault(name: str, target: str) -> None:
    plan = plan_of(name, target)
    proof = proofs(ArenaName.LIVE)[plan.target_kind, name]
    good = evidence(name, target, 0.02)
    assert proof.objection(plan, good) == ""
    for needed in proof.needs:
        assert proof.objection(plan, {k: v for k, v in good.items() if k != needed})
    assert proof.objection(plan, {})


@pytest.mark.parametrize(
    ("name", "target", "wrong"),
    [
        ("kill", "worker-1", {"exit": 0}),
        ("kill", "worker-1", {"replaced_by": None}),
        ("kill", "worker-1", {"replaced_by": "first worker-1"}),
        ("restart", "worker-1", {"exit": -9}),
        ("pause", "worker-1", {"stopped": False}),
        ("pause", "worker-1", {"held_seconds": 0.01}),
        ("pause", "worker-1", {"held_seconds": None}),
        ("skew", "worker-1", {"ahead": 0.0}),
        ("skew", "worker-1", {"ahead_after": 40.0}),
        ("kill", "postgres", {"replaced_by": 4711}),
        ("restart_empty", "redis", {"replaced_by": None}),
        ("pause", "postgres", {"stopped": 2}),
        ("pause", "postgres", {"stopped": 0, "processes": 0}),
        ("flush", "redis", {"keys": 0}),
        ("refuse_writes", "redis", {"refused": 0}),
        ("demote", "redis", {"readonly": 0}),
        ("demote", "redis", {"moved": False}),
        ("exhaust", "postgres", {"connections": 0}),
        ("lock_rows", "postgres", {"rows": 0}),
        ("lock_rows", "postgres", {"waited": 0}),
        ("silent_drop", "worker-1->redis", {"swallowed": 0}),
        ("silent_drop", "worker-1->redis", {"opened": 0}),
        ("down", "worker-1->redis", {"connections_closed": 0, "probe_answered": True}),
        ("latency", "worker-1->redis", {"bytes_sent": 0, "bytes_released": 0}),
        ("latency", "worker-1->redis", {"probe_answered": True, "probe_ms": 1.0}),
        ("bandwidth", "worker-1->redis", {"probe_ms": 2.0}),
    ],
)
def test_implausible_evidence(name: str, target: str, wrong: dict[str, Any]) -> None:
    plan = plan_of(name, target)
    proof = proofs(ArenaName.LIVE)[plan.target_kind, name]
    assert proof.objection(plan, evidence(name, target, 0.02) | wrong).startswith("not shown by ")


@pytest.mark.parametrize(
    ("fault", "wrong", "holds"),
    [
        ("down", {}, False),
        ("down", {"refused": 1}, True),
        ("latency", {"refused": 1}, False),
        ("latency", {"held_messages": 1}, True),
        ("slicer", {"slowed_messages": 1}, True),
    ],
)
def test_evidence_of_simulated_edges(fault: str, wrong: dict[str, Any], holds: bool) -> None:
    plan = plan_of(fault, "worker-1->redis")
    proof = proofs(ArenaName.SIMULATION)[plan.target_kind, fault]
    seen = dict.fromkeys(proof.needs, 0) | {"left": []} | wrong
    assert (proof.objection(plan, seen) == "") is holds


def test_evidence_about_other_targets() -> None:
    run = faulty(STALL, "worker-1->redis")

    def elsewhere(record: Fault) -> Fault:
        about = dict(zip(("api-1->postgres",), record.evidence.values(), strict=False))
        return replace(record, evidence=about)

    assert changed(run, elsewhere) == [
        f"fault cut#{n} was injected into worker-1->redis, observed at api-1->postgres"
        for n in (1, 2)
    ]
    assert "observed at nothing" in changed(run, lambda r: replace(r, evidence={}))[0]


@pytest.mark.parametrize(
    "targets", [("worker-1->postgres",), (), ("worker-1->redis", "worker-2->redis")]
)
def test_targets_other_than_planned(targets: tuple[str, ...]) -> None:
    def moved(record: Fault) -> Fault:
        about = dict.fromkeys(targets, evidence("latency", "worker-1->redis", 0.5))
        return replace(record, targets=targets, evidence=about if record.type == "felt" else {})

    doubts = changed(faulty(STALL, "worker-1->redis"), moved)
    assert len(doubts) == 2
    assert all("planned was latency of 1" in doubt for doubt in doubts)


def test_exit_of_a_killed_process_is_recorded() -> None:
    run = faulty({"name": "murder", "fault": "kill", "target": "worker-1", "at": 1}, "worker-1")
    assert found(run.history()) == []
    without = run.edited(lambda r: None if isinstance(r, Exit) else r)
    (doubt,) = found(without)
    assert doubt.endswith("observed, but no such exit of its process 4711 is recorded")


def test_paused_worker_does_nothing() -> None:
    run = Specimen(plan={"faults": [PAUSE | {"for": 30}]})
    life = run.submit("a").dispatch().claim("worker-1")
    run.inject("frozen#1", "pause", "worker-1")
    life.end(Reason.LOST).dispatch().claim("worker-2").succeed()

    def acting(worker: str) -> Callable[[Fault], Fault]:
        def edit(record: Fault) -> Fault:
            about = {"worker-1": record.evidence.get("worker-1", {}) | {"incarnation": worker}}
            return replace(record, evidence=about if record.type == "felt" else {})

        return edit

    assert changed(run, acting(run.incarnations["worker-1"])) == []
    # The other worker acts at 31.1 s; it would have been paused until 31.5 s.
    other = run.incarnations["worker-2"]

    def longer(record: Fault) -> Fault:
        record = acting(other)(record)
        if record.type == "felt":
            record.evidence["worker-1"]["held_seconds"] = 30.5
        return record

    (doubt,) = changed(run, longer)
    assert "but claimed at 31." in doubt


@pytest.mark.parametrize(("left", "doubted"), [("latency up", True), ("down", False)])
def test_toxics_that_are_left_belong_to_another_fault(left: str, doubted: bool) -> None:
    run = faulty(STALL, "worker-1->redis")
    down = {"name": "gone", "fault": "down", "target": "worker-1->redis", "at": 1, "for": 0.5}
    run.plan["faults"].append(down)
    start = next(r for r in run.records if isinstance(r, Fault)).at
    for kind, at, held in (("start", start, ()), ("felt", 1.6, ()), ("end", 1.7, (0.5,))):
        first = next(r for r in run.records if isinstance(r, Fault) and r.type == kind)
        about = {"worker-1->redis": evidence("down", "worker-1->redis", 0.5)}
        run.records.append(
            replace(
                first,
                fault_id="gone#1",
                fault="down",
                at=at,
                held_seconds=held,
                evidence=about if kind == "felt" else {},
            )
        )

    def edit(record: Fault) -> Fault:
        if record.fault_id == "cut#1" and record.type == "felt":
            record.evidence["worker-1->redis"]["left"] = [left]
        return record

    doubts = changed(run, edit)
    assert [doubt.rpartition(", ")[2] for doubt in doubts] == (
        ["but not removed: latency up"] if doubted else []
    )
