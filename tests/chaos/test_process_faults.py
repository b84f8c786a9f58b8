"""Process faults take effect, and count as observed only if they did."""

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

# Registers itself like a worker, by a line with the time of its start.
ROLE = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))
{more}
with pathlib.Path("register").open("a") as register:
    register.write(f"{{time.time()}}\\n")
while True:
    time.sleep(0.01)
"""


# Handles the signal to move its clock without moving it.
UNMOVED = """
def show(*_):
    pathlib.Path("clock.draft").write_text(repr(time.time()))
    pathlib.Path("clock.draft").rename("clock.shows")
signal.signal(signal.SIGUSR1, show)
"""


class FakeObserver:
    """Reads incarnations from the file in which processes register."""

    def __init__(self, register: Path) -> None:
        self.register = register
        self.dead_reason: str | None = None
        self.unavailable = False

    async def incarnations(self, label: str) -> list[Incarnation]:
        starts = self.register.read_text().splitlines() if self.register.exists() else []
        return [
            Incarnation(f"{label} {number}", float(start), self.dead_reason)
            for number, start in enumerate(starts, start=1)
        ]

    async def running(self, label: str) -> int:
        if self.unavailable:
            raise DatabaseUnavailable(f"unavailable: {label}")
        return 0


class FaultBench:
    """One actor and its observer."""

    def __init__(self, directory: Path, reaper: Reaper) -> None:
        self.directory = directory
        self.reaper = reaper
        self.observer = FakeObserver(directory / "register")
        self.actor: SupervisedProcess | None = None

    async def start(
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

    def fault(self, fault: str, **attributes: int) -> ProcessFault:
        assert self.actor is not None
        plan = {"fault": fault, "target": self.actor.name, "at": 0, "attributes": attributes}
        observer = cast("DatabaseObserver", self.observer)
        return ProcessFault(FaultSpec.model_validate(plan), self.actor, observer)


@pytest.fixture
async def bench(tmp_path: Path, reaper: Reaper) -> AsyncIterator[FaultBench]:
    bench = FaultBench(tmp_path, reaper)
    yield bench
    assert bench.actor is not None
    await bench.actor.stop(1)


async def hold_briefly() -> None:
    await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("fault", "code"), [("kill", -signal.SIGKILL), ("terminate", 0), ("restart", 0)]
)
async def test_process_end_is_observed_by_exit_code_and_next_incarnation(
    bench: FaultBench, fault: str, code: int
) -> None:
    actor = await bench.start()
    pid = actor.pid
    alive: list[bool] = []

    async def hold() -> None:
        await asyncio.sleep(0.2)
        alive.append(actor.alive)

    observed, evidence = await bench.fault(fault).run(hold)
    assert observed
    assert (evidence["pid"], evidence["exit"]) == (pid, code)
    assert (evidence["incarnation"], evidence["replaced_by"]) == ("worker-1 1", "worker-1 2")
    # With restart the process is up again while the fault lasts.
    assert alive == [fault == "restart"]
    assert actor.pid != pid


async def test_unexpected_exit_code_is_not_observed(bench: FaultBench) -> None:
    await bench.start(code=3)
    observed, evidence = await bench.fault("terminate").run(hold_briefly)
    assert not observed
    assert evidence["exit"] == 3


async def test_process_end_without_a_replacement_is_not_observed(
    bench: FaultBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.nemesis.process_faults._REPLACED_SECONDS", 0.2)
    actor = await bench.start()
    # It is started again, but does not register in the database.
    bench.observer.register = bench.directory / "register as it was"
    bench.observer.register.write_text((bench.directory / "register").read_text())
    observed, evidence = await bench.fault("kill").run(hold_briefly)
    assert not observed
    assert actor.alive
    assert (evidence["incarnation"], evidence["replaced_by"]) == ("worker-1 1", None)


async def test_cancelled_process_fault_restarts_its_process(
    bench: FaultBench,
) -> None:
    actor = await bench.start()
    holding = asyncio.Event()

    async def hold() -> None:
        holding.set()
        await asyncio.Event().wait()

    injection = asyncio.create_task(bench.fault("kill").run(hold))
    await holding.wait()
    assert not actor.alive
    injection.cancel()
    await asyncio.gather(injection, return_exceptions=True)
    async with asyncio.timeout(5):
        while not actor.alive:
            await asyncio.sleep(0.01)


# Found by workers_killed on a loaded machine: a restarting worker looked busy.
async def test_busy_waits_for_a_process_that_is_restarting(bench: FaultBench) -> None:
    actor = await bench.start()
    actor.kill()
    await actor.gone()
    waiting = asyncio.create_task(bench.fault("kill").busy())
    await hold_briefly()
    assert not waiting.done()
    actor.restart()
    await waiting
    assert actor.alive


# Found by storm in simulation, seed 1212721487: it waited until the end of an outage of Postgres.
@pytest.mark.parametrize("status", [200, 503])
async def test_graceful_stop_waits_for_an_answer_not_for_readiness(
    bench: FaultBench, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    answers: list[int | None] = [None, None, status]

    async def readiness(_: object) -> int | None:
        return answers.pop(0)

    monkeypatch.setattr("chaos.nemesis.process_faults._BUSY_SECONDS", 0.0)
    monkeypatch.setattr("chaos.nemesis.process_faults._UP_SECONDS", 60.0)
    actor = await bench.start()
    monkeypatch.setattr(type(actor), "readiness", readiness)
    await asyncio.wait_for(bench.fault("terminate").busy(), 5)
    assert answers == []


async def test_scheduler_has_no_incarnation_in_the_evidence(bench: FaultBench) -> None:
    await bench.start("scheduler-1")
    observed, evidence = await bench.fault("kill").run(hold_briefly)
    assert observed
    assert evidence["exit"] == -signal.SIGKILL
    assert "incarnation" not in evidence


async def test_busy_gives_up_on_an_idle_worker_or_a_missing_database(
    bench: FaultBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.nemesis.process_faults._BUSY_SECONDS", 0.1)
    await bench.start()
    injection = bench.fault("kill")
    await asyncio.wait_for(injection.busy(), 5)  # idle all the time, so it stops waiting
    monkeypatch.setattr("chaos.nemesis.process_faults._BUSY_SECONDS", 60.0)
    bench.observer.unavailable = True
    await asyncio.wait_for(injection.busy(), 5)


@pytest.mark.parametrize("dead_reason", [None, "lease expired"])
async def test_pause_is_observed_by_process_state_and_records_marked_dead(
    bench: FaultBench, dead_reason: str | None
) -> None:
    actor = await bench.start()
    states: list[str] = []

    async def hold() -> None:
        bench.observer.dead_reason = dead_reason
        states.append(process_state(actor.pid))

    observed, evidence = await bench.fault("pause").run(hold)
    assert observed
    assert states == ["T"]
    assert evidence["stopped"]
    assert (evidence["incarnation"], evidence["marked_dead"]) == ("worker-1 1", dead_reason)
    assert process_state(actor.pid) != "T"


async def test_pause_that_ended_early_is_not_observed(bench: FaultBench) -> None:
    actor = await bench.start()

    async def hold() -> None:
        actor.resume()
        async with asyncio.timeout(5):
            while process_state(actor.pid) == "T":
                await asyncio.sleep(0.01)

    observed, evidence = await bench.fault("pause").run(hold)
    assert not observed
    assert not evidence["stopped"]


async def test_clock_that_cannot_be_moved_is_not_observed(
    bench: FaultBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.live.actors.CLOCK_MOVES_SECONDS", 0.3)
    await bench.start()  # not under chaos.live.clock_skew_role: the signal ends it
    observed, evidence = await bench.fault("skew", seconds=60).run(hold_briefly)
    assert not observed
    assert (evidence["ahead"], evidence["ahead_after"]) == (None, None)


async def test_clock_that_did_not_move_is_not_observed(bench: FaultBench) -> None:
    await bench.start(more=UNMOVED)
    observed, evidence = await bench.fault("skew", seconds=60).run(hold_briefly)
    assert not observed
    assert evidence["ahead"] == pytest.approx(0, abs=1)
    assert evidence["ahead_after"] == pytest.approx(0, abs=1)
