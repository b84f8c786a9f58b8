"""Supervised processes: started, broken, restarted and stopped for real."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from waiting import until, within

from chaos.live.actors import Command, SupervisedProcess, process_state
from chaos.live.topology import ProcessStack
from chaos.nemesis.process_faults import ActorFailed, ProcessEnd
from holdfast.devstack.host import free_port
from holdfast.devstack.reaper import Reaper

FOREVER = "import time; print('up', flush=True)\nwhile True: time.sleep(0.01)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{FOREVER}"
READY = """
import http.server, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""
Make = Callable[..., SupervisedProcess]


class Actors:
    """Starts processes under supervision; the fixture stops them all."""

    def __init__(self, directory: Path, reaper: Reaper) -> None:
        self.directory = directory
        self.reaper = reaper
        self.processes: list[SupervisedProcess] = []
        self.exits: list[ProcessEnd] = []

    def start(self, code: str, *arguments: str, ready_url: str | None = None) -> SupervisedProcess:
        argv = [sys.executable, "-c", code, *arguments]
        log = self.directory / f"{len(self.processes)}.log"
        command = Command(argv, {}, self.directory, log, ready_url)
        actor = SupervisedProcess(
            f"actor-{len(self.processes)}", command, self.reaper, self.exits.append
        )
        self.processes.append(actor)
        actor.start()
        return actor


@pytest.fixture
async def actors(tmp_path: Path, reaper: Reaper) -> AsyncIterator[Actors]:
    actors = Actors(tmp_path, reaper)
    yield actors
    await asyncio.gather(*(actor.stop(1) for actor in actors.processes))


async def test_unplanned_exit_is_recorded_and_process_restarted(actors: Actors) -> None:
    actor = actors.start("raise SystemExit(3)")
    await until(lambda: len(actors.exits) >= 2)
    assert [(end.code, end.planned) for end in actors.exits[:2]] == [(3, False), (3, False)]
    assert actors.exits[0].pid != actors.exits[1].pid
    assert actor.starts >= 2


async def test_killed_process_is_reaped_and_waits_for_restart(actors: Actors) -> None:
    actor = actors.start(FOREVER)
    pid = actor.kill()
    assert await actor.gone() == -signal.SIGKILL
    await until(lambda: len(actors.exits) == 1)
    assert (actors.exits[0].pid, actors.exits[0].planned) == (pid, True)
    await asyncio.sleep(0.2)
    assert not actor.alive
    with pytest.raises(ActorFailed, match="no process"):
        actor.kill()
    actor.restart()
    await until(lambda: actor.alive)
    assert actor.pid != pid


async def test_paused_process_is_stopped_until_resumed(actors: Actors) -> None:
    actor = actors.start(FOREVER)
    pid = actor.pause()
    await until(lambda: process_state(pid) == "T")
    actor.resume()
    await until(lambda: process_state(pid) in {"R", "S"})
    assert actor.alive


async def test_stop_ends_paused_stubborn_and_killed_processes(actors: Actors) -> None:
    paused, stubborn, killed = actors.start(FOREVER), actors.start(STUBBORN), actors.start(FOREVER)
    await until(lambda: "up" in stubborn.command.log.read_text())
    paused.pause()
    killed.kill()
    await asyncio.gather(*(actor.stop(0.3) for actor in (paused, stubborn, killed)))
    assert not any(actor.alive for actor in actors.processes)
    codes = {end.actor: end.code for end in actors.exits}
    assert codes == {
        paused.name: -signal.SIGTERM,
        stubborn.name: -signal.SIGKILL,
        killed.name: -signal.SIGKILL,
    }


async def test_ready_waits_for_readyz(actors: Actors) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/readyz"
    actor = actors.start(READY, str(port), ready_url=url)
    await actor.ready(10)


# Exits until its file has more lines than given, one per start; then it is ready.
LATE = """
import pathlib, sys, time
starts = pathlib.Path(sys.argv[2])
with starts.open("a") as file:
    file.write(f"{time.time()}\\n")
if len(starts.read_text().splitlines()) <= int(sys.argv[3]):
    sys.exit("no database yet")
"""
LATE_READY = f"{LATE}{READY}"


def starts_of(path: Path) -> list[float]:
    """Return the Unix time of each start of a LATE actor."""
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


async def test_restarts_back_off_when_a_process_dies_immediately(
    actors: Actors, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    actor = actors.start(f"{LATE}{FOREVER}", "0", str(starts), "4")
    await until(lambda: actor.starts == 5 and actor.alive and len(starts_of(starts)) == 5, 15)
    ends = [end.at for end in actors.exits]
    waits = [start - end for end, start in zip(ends, starts_of(starts)[1:], strict=True)]
    # A new process needs some time to get this far, so each wait is longer than its delay.
    assert all(wait >= delay for wait, delay in zip(waits, (0.1, 0.2, 0.4, 0.8), strict=True))


async def test_restart_delay_is_capped(actors: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.live.actors.RESTART_DELAY_MAX_SECONDS", 0.12)
    actor = actors.start("raise SystemExit(1)")
    # Uncapped, the sixth start would come after 3 seconds, and the tenth after 51.
    await until(lambda: actor.starts >= 10, 20)


async def test_process_that_ran_long_enough_restarts_without_delay(
    actors: Actors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.live.actors.SHORT_LIFE_SECONDS", 0.05)
    monkeypatch.setattr("chaos.live.actors.RESTART_DELAY_MAX_SECONDS", 60.0)
    long_enough = "import time; time.sleep(0.06)"
    actor = actors.start(f"{long_enough}\n{LATE}", "0", str(tmp_path / "starts"), "99")
    # If these processes counted as short-lived, the ninth start would come after 25 s.
    await until(lambda: actor.starts >= 9, 15)


async def test_abandoned_process_stays_dead_even_with_a_pending_restart(
    actors: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.live.actors.RESTART_DELAY_SECONDS", 0.3)
    crashed, alive, paused = actors.start("raise SystemExit(1)"), *map(actors.start, [FOREVER] * 2)
    paused.pause()
    await until(lambda: len(actors.exits) == 1)
    for actor in actors.processes:
        actor.abandon()
        actor.restart()
    keepers = [actor._keeper for actor in actors.processes if actor._keeper is not None]
    await within(asyncio.gather(*keepers), lambda: [a for a in actors.processes if a.alive])
    assert [actor.starts for actor in (crashed, alive, paused)] == [1, 1, 1]
    assert not any(actor.alive for actor in actors.processes)
    assert sorted(end.code for end in actors.exits) == [-signal.SIGKILL, -signal.SIGKILL, 1]


async def test_abandon_leaves_only_the_core_alive(actors: Actors, tmp_path: Path) -> None:
    unused = cast("Any", None)
    stack = ProcessStack(unused, unused, unused, tmp_path)
    stack.actors = {name: actors.start(FOREVER) for name in ("worker-1", "worker-2", "api-1")}
    stack.abandon(["worker-2", "api-1"])
    assert await stack.actors["worker-1"].gone() == -signal.SIGKILL
    assert stack.actors["worker-2"].alive
    assert stack.actors["api-1"].alive


@pytest.mark.parametrize("patient", [True, False])
async def test_patient_ready_waits_while_a_role_dies_repeatedly(
    actors: Actors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, patient: bool
) -> None:
    monkeypatch.setattr("chaos.live.actors.RESTART_DELAY_MAX_SECONDS", 0.1)
    port = free_port()
    url = f"http://127.0.0.1:{port}/readyz"
    actor = actors.start(LATE_READY, str(port), str(tmp_path / "starts"), "7", ready_url=url)
    if patient:
        await actor.ready(20, patient=True)
        assert actor.starts == 8
    else:
        with pytest.raises(ActorFailed, match=r"(?s)actor-0 was not ready.*no database yet"):
            await actor.ready(20)


async def test_error_of_a_process_that_never_gets_ready_ends_with_its_log(actors: Actors) -> None:
    url = f"http://127.0.0.1:{free_port()}/readyz"
    actor = actors.start("raise SystemExit('no such database')", ready_url=url)
    with pytest.raises(ActorFailed, match=r"(?s)actor-0 was not ready.*no such database"):
        await actor.ready(10)


def test_state_of_a_missing_process_is_empty() -> None:
    assert process_state(2**22 + 1) == ""
