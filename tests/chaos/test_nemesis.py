"""When faults start and end: at a second, by an event, with the load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
from waiting import until

from chaos.history.records import Fault, InFlight
from chaos.nemesis.nemesis import Nemesis
from chaos.nemesis.process_faults import Hold, Observed
from chaos.scenario.faults import After, FaultSpec
from chaos.scenario.scenario import Scenario


class FakeObserver:
    """Events happen when the test sets their counts."""

    def __init__(self) -> None:
        self.happened: dict[str, int] = {}

    async def count(self, event: After) -> int:
        return self.happened.get(event.event, 0)

    async def in_flight(self) -> InFlight:
        return InFlight(open=5, running=2)


class FakeTarget:
    """A target whose edges are broken while an injection holds."""

    def __init__(self, *faults: dict[str, Any]) -> None:
        document: dict[str, Any] = {
            "id": "nemesis",
            "hypothesis": "Faults are injected when they are due and not otherwise.",
            "workload": {"tasks": 1, "seconds": 1},
            "faults": [{"fault": "down", "target": "worker-1->redis"} | each for each in faults],
        }
        self.scenario = Scenario.model_validate(document)
        self.broken: set[str] = set()
        self.repair_seconds = 0.0
        self.observer = FakeObserver()
        self.actors: dict[str, Any] = {}

    async def inject_edge_fault(
        self, plan: FaultSpec, fault_id: str, edges: tuple[str, ...], hold: Hold
    ) -> Observed:
        self.broken.update(edges)
        try:
            await hold()
            await asyncio.sleep(self.repair_seconds)
        finally:
            self.broken.difference_update(edges)
        return True, {"fault": plan.fault, "fault_id": fault_id}


class NemesisRun:
    """A nemesis that runs in the background of a test."""

    def __init__(self, *faults: dict[str, Any], seed: int = 1) -> None:
        self.target = FakeTarget(*faults)
        self.records: list[Fault] = []
        zero = time.monotonic()
        self.nemesis = Nemesis(
            cast("Any", self.target), seed, lambda: time.monotonic() - zero, self.records.append
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.nemesis.run())
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def recorded(self) -> list[tuple[str, str]]:
        return [(record.fault_id, record.type) for record in self.records]


async def test_injections_start_and_end_on_time() -> None:
    run = NemesisRun({"name": "f", "at": 0.1, "for": 0.1, "every": 0.4, "times": 2})
    async with run.running() as running:
        await running
    starts = [record.at for record in run.records if record.type == "start"]
    ends = [record.at for record in run.records if record.type == "end"]
    assert starts == pytest.approx([0.1, 0.5], abs=0.15)
    assert all(end - start >= 0.1 for start, end in zip(starts, ends, strict=True))
    first = next(record for record in run.records if record.type == "start")
    assert first.in_flight == InFlight(open=5, running=2)
    assert run.target.broken == set()


async def test_injections_on_one_edge_do_not_overlap_when_late() -> None:
    """On a loaded machine the end of one injection of redis_flapping had undone the next."""
    run = NemesisRun({"name": "f", "at": 0, "for": 0.05, "every": 0.1, "times": 3})
    run.target.repair_seconds = 0.15
    async with run.running() as running:
        await running
    kinds = [kind for _, kind in run.recorded()]
    assert kinds == ["start", "felt", "end"] * 3


async def test_injection_waits_for_its_event() -> None:
    run = NemesisRun({"name": "f", "after": {"event": "claimed", "count": 3}, "for": 0.05})
    async with run.running() as running:
        run.target.observer.happened["claimed"] = 2
        await asyncio.sleep(0.15)
        assert run.recorded() == []
        run.target.observer.happened["claimed"] = 3
        await running
    assert ("f#1", "start") in run.recorded()


async def test_event_that_never_happens_leaves_no_records() -> None:
    run = NemesisRun({"name": "f", "after": {"event": "claimed"}, "for": 1})
    async with run.running() as running:
        run.nemesis.load_over()
        await running
    assert run.recorded() == []


async def test_until_counts_events_from_the_injection_on() -> None:
    until_lost = {"event": "lost", "count": 2}
    run = NemesisRun({"name": "f", "at": 0, "for": 60, "until": until_lost})
    run.target.observer.happened["lost"] = 7
    async with run.running() as running:
        await until(lambda: bool(run.target.broken))
        run.target.observer.happened["lost"] = 8
        await asyncio.sleep(0.15)
        assert run.target.broken
        run.target.observer.happened["lost"] = 9
        await asyncio.wait_for(running, 5)
    assert ("f#1", "end") in run.recorded()


async def test_until_ends_at_its_limit() -> None:
    run = NemesisRun({"name": "f", "at": 0, "for": 0.2, "until": {"event": "lost"}})
    async with run.running() as running:
        await asyncio.wait_for(running, 5)
    assert ("f#1", "end") in run.recorded()


async def test_fault_without_an_end_holds_until_the_load_is_over() -> None:
    run = NemesisRun({"name": "f", "at": 0})
    async with run.running() as running:
        await until(lambda: bool(run.target.broken))
        await asyncio.sleep(0.2)
        assert run.target.broken
        run.nemesis.load_over()
        await asyncio.wait_for(running, 5)
    assert run.target.broken == set()


async def test_cancelled_nemesis_undoes_active_faults() -> None:
    run = NemesisRun({"name": "f", "at": 0})
    async with run.running():
        await until(lambda: bool(run.target.broken))
    assert run.target.broken == set()


def test_targets_are_picked_by_the_seed() -> None:
    picked = {"name": "f", "target": "worker-*->redis", "pick": 1, "at": 0, "for": 1}

    def targets(seed: int) -> list[tuple[str, ...]]:
        nemesis = NemesisRun(picked, seed=seed).nemesis
        plan = nemesis._target.scenario.faults[0]
        return [nemesis._pick(plan, f"f#{n}") for n in range(1, 13)]

    assert targets(1) == targets(1)
    assert len(set(targets(1))) == 3
    assert targets(1) != targets(2)
