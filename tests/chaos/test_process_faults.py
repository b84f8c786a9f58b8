"""Faults of processes really strike, and say so only if they did."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from chaos.live.actors import Command, SupervisedProcess, process_state
from chaos.nemesis.process_faults import ProcessFault
from chaos.observers.database import DatabaseObserver, DatabaseUnavailable, Incarnation
from chaos.scenario.faults import FaultSpec
from holdfast.devstack.reaper import Reaper

# Registers itself as a worker does: by a line with the time of its start.
ROLE = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))
{more}
with pathlib.Path("register").open("a") as register:
    register.write(f"{{time.time()}}\\n")
while True:
    time.sleep(0.01)
"""


# Takes the signal to move its clock, and does not.
UNMOVED = """
def show(*_):
    pathlib.Path("clock.draft").write_text(repr(time.time()))
    pathlib.Path("clock.draft").rename("clock.shows")
signal.signal(signal.SIGUSR1, show)
"""


class FakeObserver:
    """Knows what the processes wrote down, and whom the test declares dead."""

    def __init__(self, register: Path) -> None:
        self.register = register
        self.dead_reason: str | None = None
        self.away = False

    async def incarnations(self, label: str) -> list[Incarnation]:
        starts = self.register.read_text().splitlines() if self.register.exists() else []
        return [
            Incarnation(f"{label} {number}", float(start), self.dead_reason)
            for number, start in enumerate(starts, start=1)
        ]

    async def running(self, label: str) -> int:
        if self.away:
            raise DatabaseUnavailable(f"nobody knows {label}")
        return 0


class Stage:
    """One actor and a observer."""

    def __init__(self, directory: Path, reaper: Reaper) -> None:
        self.directory = directory
        self.reaper = reaper
        self.observer = FakeObserver(directory / "register")
        self.actor: SupervisedProcess | None = None

    async def play(
        self, name: str = "worker-1", *, code: int = 0, more: str = ""
    ) -> SupervisedProcess:
        argv = [sys.executable, "-c", ROLE.format(code=code, more=more)]
        command = Command(
            argv, {}, self.directory, self.directory / "log", None, self.directory / "clock"
        )
        self.actor = SupervisedProcess(name, command, self.reaper, lambda _: None)
        self.actor.start()
        async with asyncio.timeout(5):
            while not await self.observer.incarnations(name):
                await asyncio.sleep(0.01)
        return self.actor

    def strike(self, fault: str, **attributes: int) -> ProcessFault:
        assert self.actor is not None
        plan = {"fault": fault, "target": self.actor.name, "at": 0, "attributes": attributes}
        witness = cast("DatabaseObserver", self.observer)
        return ProcessFault(FaultSpec.model_validate(plan), self.actor, witness)


@pytest.fixture
async def stage(tmp_path: Path, reaper: Reaper) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, reaper)
    yield stage
    assert stage.actor is not None
    await stage.actor.stop(1)


async def a_moment() -> None:
    await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("fault", "code"), [("kill", -signal.SIGKILL), ("terminate", 0), ("restart", 0)]
)
async def test_an_end_is_felt_by_its_exit_and_by_the_next_incarnation(
    stage: Stage, fault: str, code: int
) -> None:
    actor = await stage.play()
    pid = actor.pid
    alive: list[bool] = []

    async def hold() -> None:
        await asyncio.sleep(0.2)
        alive.append(actor.alive)

    felt, evidence = await stage.strike(fault).run(hold)
    assert felt
    assert (evidence["pid"], evidence["exit"]) == (pid, code)
    assert (evidence["incarnation"], evidence["replaced_by"]) == ("worker-1 1", "worker-1 2")
    # One that is restarted is up again while the fault lasts.
    assert alive == [fault == "restart"]
    assert actor.pid != pid


async def test_an_end_of_another_kind_than_asked_for_is_not_felt(stage: Stage) -> None:
    await stage.play(code=3)
    felt, evidence = await stage.strike("terminate").run(a_moment)
    assert not felt
    assert evidence["exit"] == 3


async def test_an_end_is_not_felt_if_nobody_came_instead(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.nemesis.process_faults._REPLACED_SECONDS", 0.2)
    actor = await stage.play()
    # It is started again, but the database does not know of it.
    stage.observer.register = stage.directory / "register as it was"
    stage.observer.register.write_text((stage.directory / "register").read_text())
    felt, evidence = await stage.strike("kill").run(a_moment)
    assert not felt
    assert actor.alive
    assert (evidence["incarnation"], evidence["replaced_by"]) == ("worker-1 1", None)


async def test_a_strike_that_is_given_up_in_the_middle_lets_its_process_return(
    stage: Stage,
) -> None:
    actor = await stage.play()
    holding = asyncio.Event()

    async def hold() -> None:
        holding.set()
        await asyncio.Event().wait()

    strike = asyncio.create_task(stage.strike("kill").run(hold))
    await holding.wait()
    assert not actor.alive
    strike.cancel()
    await asyncio.gather(strike, return_exceptions=True)
    async with asyncio.timeout(5):
        while not actor.alive:
            await asyncio.sleep(0.01)


# Found by workers_killed on a crowded machine: between two of its lives a worker looked busy.
async def test_a_process_between_two_lives_is_waited_for(stage: Stage) -> None:
    actor = await stage.play()
    actor.kill()
    await actor.gone()
    waiting = asyncio.create_task(stage.strike("kill").busy())
    await a_moment()
    assert not waiting.done()
    actor.restart()
    await waiting
    assert actor.alive


async def test_a_scheduler_has_no_incarnation_to_be_replaced(stage: Stage) -> None:
    await stage.play("scheduler-1")
    felt, evidence = await stage.strike("kill").run(a_moment)
    assert felt
    assert evidence["exit"] == -signal.SIGKILL
    assert "incarnation" not in evidence


async def test_a_strike_does_not_wait_for_work_that_nobody_can_see(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.nemesis.process_faults._BUSY_SECONDS", 0.1)
    await stage.play()
    strike = stage.strike("kill")
    await asyncio.wait_for(strike.busy(), 5)  # idle all the time: it gives up waiting
    monkeypatch.setattr("chaos.nemesis.process_faults._BUSY_SECONDS", 60.0)
    stage.observer.away = True
    await asyncio.wait_for(strike.busy(), 5)


@pytest.mark.parametrize("dead_reason", [None, "lease expired"])
async def test_a_pause_is_felt_by_its_state_and_tells_if_somebody_noticed(
    stage: Stage, dead_reason: str | None
) -> None:
    actor = await stage.play()
    states: list[str] = []

    async def hold() -> None:
        stage.observer.dead_reason = dead_reason
        states.append(process_state(actor.pid))

    felt, evidence = await stage.strike("pause").run(hold)
    assert felt
    assert states == ["T"]
    assert evidence["stopped"]
    assert (evidence["incarnation"], evidence["marked_dead"]) == ("worker-1 1", dead_reason)
    assert process_state(actor.pid) != "T"


async def test_a_pause_that_somebody_else_ended_is_not_felt(stage: Stage) -> None:
    actor = await stage.play()

    async def hold() -> None:
        actor.resume()
        async with asyncio.timeout(5):
            while process_state(actor.pid) == "T":
                await asyncio.sleep(0.01)

    felt, evidence = await stage.strike("pause").run(hold)
    assert not felt
    assert not evidence["stopped"]


async def test_a_clock_that_cannot_be_moved_is_not_felt(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.live.actors.CLOCK_MOVES_SECONDS", 0.3)
    await stage.play()  # not under chaos.live.clock_skew_role: the signal ends it
    felt, evidence = await stage.strike("skew", seconds=60).run(a_moment)
    assert not felt
    assert (evidence["ahead"], evidence["ahead_after"]) == (None, None)


async def test_a_clock_that_did_not_move_is_not_felt(stage: Stage) -> None:
    await stage.play(more=UNMOVED)
    felt, evidence = await stage.strike("skew", seconds=60).run(a_moment)
    assert not felt
    assert evidence["ahead"] == pytest.approx(0, abs=1)
    assert evidence["ahead_after"] == pytest.approx(0, abs=1)
