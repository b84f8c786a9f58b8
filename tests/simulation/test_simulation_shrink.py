"""Shrinking: which candidates are generated and accepted, and the regression scenario."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from chaos_runs import RUN_SECONDS, Chaos, chaos, home
from specimen import Specimen

from chaos.checker.verdict import judge
from chaos.scenario import scenario as scenarios
from chaos.scenario.scenario import Scenario
from chaos.scenario.workload import generate
from chaos.simulation.diagnosis import reduce
from chaos.simulation.diagnosis.diagram import mermaid
from chaos.simulation.diagnosis.search import regression_file
from chaos.simulation.diagnosis.shrink import Shrinker, write_regression
from chaos.simulation.diagnosis.variants import (
    BrokenInvariant,
    InjectedFault,
    VariantResult,
    Variants,
)
from chaos.simulation.suite.pool import Pool
from holdfast.model.lifecycle import Reason

__all__ = ["chaos", "home"]  # fixtures

LAW = "S9"
PLAN: dict[str, Any] = {
    "id": "large",
    "hypothesis": "Much happens here, and some of it is to blame.",
    "topology": {"settings": {"lease_seconds": 12, "poll_seconds": 0.2}},
    "workload": {
        "tasks": 100,
        "seconds": 10,
        "effects": {"ledger": 1, "sql": 1},
        "repeats": 0.2,
        "reads": 0.3,
        "cancels": 0.1,
    },
    "faults": [
        {"name": "needed", "fault": "pause", "target": "worker-1", "at": 2, "for": 4},
        {"name": "twice", "fault": "kill", "target": "worker-*", "pick": 1,
         "after": {"event": "claimed", "count": 5}, "for": 1, "every": 3, "times": 2},
        {"name": "idle", "fault": "flush", "target": "redis", "at": 4, "for": 0.2},
    ],
    "survivors": {"workers": 1},
    "expect": {"sometimes": ["lease_lost"], "eventually": {"L1": "computed", "L2": 6}},
}  # fmt: skip
LARGE = Scenario.model_validate(PLAN)
CULPRIT = 37
KEY = f"S7-{CULPRIT - 1:05d}"  # in capitals: an odd task has the key of its predecessor
FAULTS = (
    InjectedFault("needed#1", ("worker-1",), 2.03, 6.03),
    InjectedFault("twice#1", ("worker-2",), 1.234, 2.2),
    InjectedFault("twice#2", ("worker-3",), 4.234, 5.2),
    InjectedFault("idle#1", ("redis",), 4.0, 4.2),
)
BROKE = VariantResult("false", (BrokenInvariant(LAW, "it broke", KEY, CULPRIT),), faults=FAULTS)


class Oracle(Pool):
    """A pool whose answers come from a predicate instead of runs."""

    def __init__(self, guilty: Callable[[Scenario], bool], broke: VariantResult = BROKE) -> None:
        super().__init__(0)
        self._guilty = guilty
        self._broke = broke

    async def answers(
        self, jobs: Iterable[Mapping[str, Any]]
    ) -> AsyncIterator[tuple[Mapping[str, Any], dict[str, Any]]]:
        for job in jobs:
            scenario = Scenario.model_validate(job["scenario"])
            yield job, asdict(self._broke if self._guilty(scenario) else VariantResult("true"))


def variants(oracle: Oracle) -> Variants:
    return Variants(oracle, 2, 7, None, ())


def needs(scenario: Scenario) -> bool:
    """The bug: it needs task 37, a pause of worker-1 and a short lease."""
    load = scenario.workload
    there = load.tasks > CULPRIT and (load.only is None or CULPRIT in load.only)
    paused = any(f.name == "needed" and (f.for_seconds or 0) >= 1 for f in scenario.faults)
    return there and paused and "lease_seconds" in scenario.topology.settings


async def shrunk(most: int, oracle: Oracle | None = None) -> tuple[Scenario, int]:
    asked = variants(oracle or Oracle(needs))
    lines: list[str] = []
    start = reduce.base(LARGE, 7, LAW, "smaller")
    found = await Shrinker(asked, LAW, most, lines.append).shrink(start, BROKE)
    assert len(lines) == len(found.steps)
    return found.scenario, asked.made


async def test_shrinking_keeps_only_the_cause() -> None:
    smaller, _ = await shrunk(500)
    assert [fault.name for fault in smaller.faults] == ["needed"]
    assert smaller.workload.only == (CULPRIT,)
    assert smaller.workload.seconds < LARGE.workload.seconds / 2
    assert len(smaller.topology.processes) == 3
    assert list(smaller.topology.settings) == ["lease_seconds"]
    assert 1 <= (smaller.faults[0].for_seconds or 0) < 2
    assert smaller.survivors is None


async def test_shrinking_stays_within_its_budget() -> None:
    smaller, made = await shrunk(9)
    assert made <= 9
    assert needs(smaller)


async def test_irreducible_scenario_is_unchanged() -> None:
    smaller, _ = await shrunk(500, Oracle(lambda _: False))
    assert smaller == reduce.base(LARGE, 7, LAW, "smaller")


async def test_failing_variant_with_new_doubts_is_rejected() -> None:
    doubtful = Oracle(needs, replace(BROKE, doubts=("fault idle was injected, but not observed",)))
    smaller, _ = await shrunk(40, doubtful)
    assert smaller == reduce.base(LARGE, 7, LAW, "smaller")


def test_base_has_fewer_expectations_and_the_same_run() -> None:
    base = reduce.base(LARGE, 7, LAW, "smaller")
    assert (base.id, base.expect.sometimes, list(base.expect.eventually)) == ("smaller", (), ["L1"])
    assert (base.faults, base.topology, base.workload) == (
        LARGE.faults,
        LARGE.topology,
        LARGE.workload,
    )
    storm = reduce.base(scenarios.find("storm"), 7, "L1", "drawn")
    assert storm.storm is None
    assert storm.faults


def test_injections_become_separate_faults() -> None:
    (candidate,) = reduce.concrete(LARGE, BROKE, LAW)
    faults = {fault.name: fault for fault in candidate.scenario.faults}
    assert list(faults) == ["needed", "twice-1", "twice-2", "idle"]
    assert (faults["twice-2"].at, faults["twice-2"].target) == (4.234, ("worker-3",))
    assert (faults["twice-1"].after, faults["twice-1"].times, faults["twice-1"].pick) == (
        None,
        1,
        None,
    )
    assert not list(reduce.concrete(candidate.scenario, BROKE, LAW))


def test_remaining_tasks_are_unchanged() -> None:
    whole = {op.key: op for op in generate(LARGE.workload, 7) if op.kind == "submit"}
    first = next(reduce.fewer_tasks(LARGE, BROKE, LAW)).scenario
    shorter = next(reduce.shorter_load(first, BROKE, LAW)).scenario
    for scenario in (first, shorter):
        submits = [op for op in generate(scenario.workload, 7) if op.kind == "submit"]
        assert submits == [whole[KEY]]
    assert shorter.workload.seconds == pytest.approx(3.8)


def test_only_valid_variants_are_generated() -> None:
    # The pause needs worker-1, the kill any worker: one worker suffices, except for worker-3.
    document = LARGE.document
    document["faults"][0]["target"] = ["worker-3"]
    fixed = Scenario.model_validate(document)
    offered = [c.scenario.topology.workers for c in reduce.fewer_processes(fixed, BROKE, LAW)]
    assert set(offered) == {3}


def test_regression_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "kept.yaml"
    scenario = reduce.base(LARGE, 7, LAW, "kept")
    write_regression(path, scenario, ["Shrunk from large."])
    assert path.read_text().startswith("# Shrunk from large.\nid: kept\n")
    assert scenarios.load(path) == scenario


@pytest.mark.parametrize("name", ["Not-an-id.yaml", "lost.yml", "nowhere/lost.yaml"])
def test_invalid_regression_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"\.yaml|no directory"):
        regression_file(tmp_path / name)


def test_diagram_shows_the_task() -> None:
    run = Specimen()
    life = run.submit("a").dispatch().claim("worker-1")
    run.inject("held#1", "latency", "worker-1->postgres")
    life.end(Reason.LOST).dispatch().claim("worker-2").stale_finish("worker-1", epoch=1)
    life.owner = f"worker:{run.worker('worker-1')}"
    life.succeed()
    judgement = judge(run.history())
    lines = mermaid(judgement.history, judgement.violations[0]).splitlines()
    assert lines[0] == "sequenceDiagram"
    assert lines[1:6] == [
        f"    participant {name.replace('-', '_')} as {name}"
        for name in ("client", "api-1", "scheduler-1", "postgres", "worker-1")
    ]
    body = "\n".join(lines)
    assert "    client->>api_1: 1.010 s submit\n" in body
    assert "    worker_1-xpostgres: 1.130 s succeeded under epoch 1 REFUSED, found RUNNING" in body
    assert "    Note over worker_1,postgres: 1.060 s latency begins (worker-1->postgres)" in body
    assert f"Note over client,worker_2: {judgement.violations[0].invariant} violated" in lines[-1]
    assert not any("#" in line or ";" in line for line in lines)


LATE: dict[str, Any] = {
    "id": "late",
    "hypothesis": "A finish that comes after its lease was lost is refused by its epoch.",
    "topology": {
        "schedulers": 1,
        "workers": 2,
        "settings": {"lease_seconds": 2, "heartbeat_seconds": 0.6, "poll_seconds": 0.4},
    },
    "workload": {
        "tasks": 20,
        "seconds": 2.4,
        "handler_seconds": [0.8, 1.4],
        "timeout_seconds": 4,
    },
    "faults": [
        {
            "name": "held",
            "fault": "latency",
            "target": "worker-1->postgres",
            "stream": "up",
            "attributes": {"latency": 600000},
            # Its first finish comes before, so that the connection is open.
            "at": 2.0,
            "until": {"event": "lost", "plus": 0.3},
            "for": 6,
        },
        {"name": "noise", "fault": "skew", "target": "scheduler-1",
         "attributes": {"seconds": 60}, "at": 0.3, "for": 0.5},
    ],
    "expect": {"sometimes": ["lease_lost"]},
}  # fmt: skip


def test_planted_bug_is_shrunk_explained_and_kept(home: Path, chaos: Chaos) -> None:
    (home / "late.yaml").write_text(yaml.safe_dump(LATE))
    mutant = ("--mutant", "finish_without_epoch")
    search = ("--shrink", "--shrink-runs", "8", "--into", "kept.yaml", "--why", "--why-runs", "12")
    simulate = ("--arena", "simulation", "--seed", "7", "--processes", "2")
    process = chaos("run", "./late.yaml", *simulate, *mutant, *search)
    said, _ = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 1, said
    before, kept = Scenario.model_validate(LATE), scenarios.load(home / "kept.yaml")
    assert [fault.fault for fault in kept.faults] == ["latency"], said
    assert len(kept.workload.only or range(kept.workload.tasks)) < before.workload.tasks
    head = (home / "kept.yaml").read_text().splitlines()[:2]
    assert "seed 7 violated S" in head[0]
    command = "python -m chaos run ./kept.yaml --arena simulation --seed 7"
    assert head[1] == f"#   {command} --mutant finish_without_epoch --trace"
    assert "sequenceDiagram" in (home / "kept.md").read_text()
    (why,) = (home / ".holdfast" / "runs").glob("2*-late-*/why.txt")
    lines = why.read_text().splitlines()
    assert lines[0].startswith("probability that S")
    assert lines[1].endswith("/6  the beginning")
    assert why.read_text() in said
    # Without the mutant the regression passes.
    process = chaos("run", "./kept.yaml", *simulate)
    said, _ = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 0, said
