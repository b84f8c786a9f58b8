"""When faults strike and end: by the second, by an event, by the end of the load."""

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
    """Events happen when the test says so."""

    def __init__(self) -> None:
        self.happened: dict[str, int] = {}

    async def count(self, event: After) -> int:
        return self.happened.get(event.event, 0)

    async def in_flight(self) -> InFlight:
        return InFlight(open=5, running=2)


class Field:
    """A battlefield where edges stand broken as long as a strike holds."""

    def __init__(self, *faults: dict[str, Any]) -> None:
        document: dict[str, Any] = {
            "id": "nemesis",
            "hypothesis": "Faults strike when they should and not otherwise.",
            "workload": {"tasks": 1, "seconds": 1},
            "faults": [{"fault": "down", "target": "worker-1->redis"} | each for each in faults],
        }
        self.scenario = Scenario.model_validate(document)
        self.standing: set[str] = set()
        self.slowness = 0.0  # seconds that mending takes
        self.observer = FakeObserver()
        self.actors: dict[str, Any] = {}

    async def inject_edge_fault(
        self, plan: FaultSpec, fault_id: str, edges: tuple[str, ...], hold: Hold
    ) -> Observed:
        self.standing.update(edges)
        try:
            await hold()
            await asyncio.sleep(self.slowness)
        finally:
            self.standing.difference_update(edges)
        return True, {"fault": plan.fault, "fault_id": fault_id}


class War:
    """A nemesis that runs in the background of a test."""

    def __init__(self, *faults: dict[str, Any], seed: int = 1) -> None:
        self.field = Field(*faults)
        self.records: list[Fault] = []
        zero = time.monotonic()
        self.nemesis = Nemesis(
            cast("Any", self.field), seed, lambda: time.monotonic() - zero, self.records.append
        )

    @asynccontextmanager
    async def waged(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.nemesis.run())
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def told(self) -> list[tuple[str, str]]:
        return [(record.fault_id, record.type) for record in self.records]


async def test_strikes_come_at_their_seconds_and_are_over_in_time() -> None:
    war = War({"name": "f", "at": 0.1, "for": 0.1, "every": 0.4, "times": 2})
    async with war.waged() as waging:
        await waging
    starts = [record.at for record in war.records if record.type == "start"]
    ends = [record.at for record in war.records if record.type == "end"]
    assert starts == pytest.approx([0.1, 0.5], abs=0.15)
    assert all(end - start >= 0.1 for start, end in zip(starts, ends, strict=True))
    first = next(record for record in war.records if record.type == "start")
    assert first.in_flight == InFlight(open=5, running=2)
    assert war.field.standing == set()


async def test_strikes_of_one_edge_do_not_overlap_when_they_take_longer_than_planned() -> None:
    """redis_flapping on a crowded machine: one strike's end mended what the next had broken."""
    war = War({"name": "f", "at": 0, "for": 0.05, "every": 0.1, "times": 3})
    war.field.slowness = 0.15
    async with war.waged() as waging:
        await waging
    told = [kind for _, kind in war.told()]
    assert told == ["start", "felt", "end"] * 3


async def test_a_strike_waits_for_its_event() -> None:
    war = War({"name": "f", "after": {"event": "claimed", "count": 3}, "for": 0.05})
    async with war.waged() as waging:
        war.field.observer.happened["claimed"] = 2
        await asyncio.sleep(0.15)
        assert war.told() == []
        war.field.observer.happened["claimed"] = 3
        await waging
    assert ("f#1", "start") in war.told()


async def test_an_event_that_never_comes_leaves_nothing_in_the_history() -> None:
    war = War({"name": "f", "after": {"event": "claimed"}, "for": 1})
    async with war.waged() as waging:
        war.nemesis.load_over()
        await waging
    assert war.told() == []


async def test_until_an_event_counts_from_the_strike_on() -> None:
    until_lost = {"event": "lost", "count": 2}
    war = War({"name": "f", "at": 0, "for": 60, "until": until_lost})
    war.field.observer.happened["lost"] = 7
    async with war.waged() as waging:
        await until(lambda: bool(war.field.standing))
        war.field.observer.happened["lost"] = 8
        await asyncio.sleep(0.15)
        assert war.field.standing
        war.field.observer.happened["lost"] = 9
        await asyncio.wait_for(waging, 5)
    assert ("f#1", "end") in war.told()


async def test_until_gives_up_after_its_limit() -> None:
    war = War({"name": "f", "at": 0, "for": 0.2, "until": {"event": "lost"}})
    async with war.waged() as waging:
        await asyncio.wait_for(waging, 5)
    assert ("f#1", "end") in war.told()


async def test_without_an_end_a_fault_holds_until_the_load_is_over() -> None:
    war = War({"name": "f", "at": 0})
    async with war.waged() as waging:
        await until(lambda: bool(war.field.standing))
        await asyncio.sleep(0.2)
        assert war.field.standing
        war.nemesis.load_over()
        await asyncio.wait_for(waging, 5)
    assert war.field.standing == set()


async def test_a_nemesis_that_is_stopped_lifts_what_stands() -> None:
    war = War({"name": "f", "at": 0})
    async with war.waged():
        await until(lambda: bool(war.field.standing))
    assert war.field.standing == set()


def test_who_is_struck_comes_from_the_seed() -> None:
    picked = {"name": "f", "target": "worker-*->redis", "pick": 1, "at": 0, "for": 1}

    def victims(seed: int) -> list[tuple[str, ...]]:
        nemesis = War(picked, seed=seed).nemesis
        plan = nemesis._target.scenario.faults[0]
        return [nemesis._pick(plan, f"f#{n}") for n in range(1, 13)]

    assert victims(1) == victims(1)
    assert len(set(victims(1))) == 3
    assert victims(1) != victims(2)
