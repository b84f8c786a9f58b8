"""Processes are started, broken, repaired and stopped for real."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from waiting import until

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


class Troupe:
    """Makes actors and stops them all in the end."""

    def __init__(self, directory: Path, reaper: Reaper) -> None:
        self.directory = directory
        self.reaper = reaper
        self.actors: list[SupervisedProcess] = []
        self.exits: list[ProcessEnd] = []

    def play(self, code: str, *arguments: str, ready_url: str | None = None) -> SupervisedProcess:
        argv = [sys.executable, "-c", code, *arguments]
        log = self.directory / f"{len(self.actors)}.log"
        command = Command(argv, {}, self.directory, log, ready_url)
        actor = SupervisedProcess(
            f"actor-{len(self.actors)}", command, self.reaper, self.exits.append
        )
        self.actors.append(actor)
        actor.start()
        return actor


@pytest.fixture
async def troupe(tmp_path: Path, reaper: Reaper) -> AsyncIterator[Troupe]:
    troupe = Troupe(tmp_path, reaper)
    yield troupe
    await asyncio.gather(*(actor.stop(1) for actor in troupe.actors))


async def test_an_unplanned_end_is_repaired_and_recorded(troupe: Troupe) -> None:
    actor = troupe.play("raise SystemExit(3)")
    await until(lambda: len(troupe.exits) >= 2)
    assert [(end.code, end.planned) for end in troupe.exits[:2]] == [(3, False), (3, False)]
    assert troupe.exits[0].pid != troupe.exits[1].pid
    assert actor.starts >= 2


async def test_a_killed_process_is_reaped_and_waits_for_its_restart(troupe: Troupe) -> None:
    actor = troupe.play(FOREVER)
    pid = actor.kill()
    assert await actor.gone() == -signal.SIGKILL
    await until(lambda: len(troupe.exits) == 1)
    assert (troupe.exits[0].pid, troupe.exits[0].planned) == (pid, True)
    await asyncio.sleep(0.2)
    assert not actor.alive
    with pytest.raises(ActorFailed, match="no process"):
        actor.kill()
    actor.restart()
    await until(lambda: actor.alive)
    assert actor.pid != pid


async def test_a_paused_process_is_stopped_until_it_is_resumed(troupe: Troupe) -> None:
    actor = troupe.play(FOREVER)
    pid = actor.pause()
    await until(lambda: process_state(pid) == "T")
    actor.resume()
    await until(lambda: process_state(pid) in {"R", "S"})
    assert actor.alive


async def test_stop_ends_paused_stubborn_and_killed_ones(troupe: Troupe) -> None:
    paused, stubborn, killed = troupe.play(FOREVER), troupe.play(STUBBORN), troupe.play(FOREVER)
    await until(lambda: "up" in stubborn.command.log.read_text())
    paused.pause()
    killed.kill()
    await asyncio.gather(*(actor.stop(0.3) for actor in (paused, stubborn, killed)))
    assert not any(actor.alive for actor in troupe.actors)
    codes = {end.actor: end.code for end in troupe.exits}
    assert codes == {
        paused.name: -signal.SIGTERM,
        stubborn.name: -signal.SIGKILL,
        killed.name: -signal.SIGKILL,
    }


async def test_ready_waits_for_the_role_to_say_so(troupe: Troupe) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/readyz"
    actor = troupe.play(READY, str(port), ready_url=url)
    await actor.ready(10)


# Dies as often as its file has not got so many lines yet, then says that it is ready.
LATE = """
import pathlib, sys, time
lives = pathlib.Path(sys.argv[2])
with lives.open("a") as file:
    file.write(f"{time.time()}\\n")
if len(lives.read_text().splitlines()) <= int(sys.argv[3]):
    sys.exit("no database yet")
"""
LATE_READY = f"{LATE}{READY}"


def lives_of(path: Path) -> list[float]:
    """When each process of a LATE actor began, in Unix time."""
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


async def test_what_dies_at_once_is_started_more_and_more_slowly(
    troupe: Troupe, tmp_path: Path
) -> None:
    lives = tmp_path / "lives"
    actor = troupe.play(f"{LATE}{FOREVER}", "0", str(lives), "4")
    await until(lambda: actor.starts == 5 and actor.alive and len(lives_of(lives)) == 5, 15)
    ends = [end.at for end in troupe.exits]
    waits = [start - end for end, start in zip(ends, lives_of(lives)[1:], strict=True)]
    # A new process needs some time to get so far: each wait is longer than its delay.
    assert all(wait >= delay for wait, delay in zip(waits, (0.1, 0.2, 0.4, 0.8), strict=True))


async def test_the_delay_is_capped(troupe: Troupe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.live.actors.RESTART_DELAY_MAX_SECONDS", 0.12)
    actor = troupe.play("raise SystemExit(1)")
    # Uncapped, the sixth would come after 3 seconds, and the tenth after 51.
    await until(lambda: actor.starts >= 10, 20)


async def test_one_that_lived_is_started_again_at_once(
    troupe: Troupe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.live.actors.SHORT_LIFE_SECONDS", 0.05)
    monkeypatch.setattr("chaos.live.actors.RESTART_DELAY_MAX_SECONDS", 60.0)
    long_enough = "import time; time.sleep(0.06)"
    actor = troupe.play(f"{long_enough}\n{LATE}", "0", str(tmp_path / "lives"), "99")
    # If each of these lives counted as a short one, the ninth would come after 25 s.
    await until(lambda: actor.starts >= 9, 15)


async def test_one_that_is_abandoned_stays_dead_even_if_it_was_about_to_come_back(
    troupe: Troupe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.live.actors.RESTART_DELAY_SECONDS", 0.3)
    crashed, alive, paused = troupe.play("raise SystemExit(1)"), *map(troupe.play, [FOREVER] * 2)
    paused.pause()
    await until(lambda: len(troupe.exits) == 1)
    for actor in troupe.actors:
        actor.abandon()
        actor.restart()
    keepers = [actor._keeper for actor in troupe.actors if actor._keeper is not None]
    await asyncio.wait_for(asyncio.gather(*keepers), 5)
    assert [actor.starts for actor in (crashed, alive, paused)] == [1, 1, 1]
    assert not any(actor.alive for actor in troupe.actors)
    assert sorted(end.code for end in troupe.exits) == [-signal.SIGKILL, -signal.SIGKILL, 1]


async def test_only_the_core_is_left_alive(troupe: Troupe, tmp_path: Path) -> None:
    nobody = cast("Any", None)
    stack = ProcessStack(nobody, nobody, nobody, tmp_path)
    stack.actors = {name: troupe.play(FOREVER) for name in ("worker-1", "worker-2", "api-1")}
    stack.abandon(["worker-2", "api-1"])
    assert await stack.actors["worker-1"].gone() == -signal.SIGKILL
    assert stack.actors["worker-2"].alive
    assert stack.actors["api-1"].alive


@pytest.mark.parametrize("patient", [True, False])
async def test_whoever_is_patient_waits_while_a_role_dies_again_and_again(
    troupe: Troupe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, patient: bool
) -> None:
    monkeypatch.setattr("chaos.live.actors.RESTART_DELAY_MAX_SECONDS", 0.1)
    port = free_port()
    url = f"http://127.0.0.1:{port}/readyz"
    actor = troupe.play(LATE_READY, str(port), str(tmp_path / "lives"), "7", ready_url=url)
    if patient:
        await actor.ready(20, patient=True)
        assert actor.starts == 8
    else:
        with pytest.raises(ActorFailed, match=r"(?s)actor-0 was not ready.*no database yet"):
            await actor.ready(20)


async def test_one_that_never_gets_ready_is_told_with_its_log(troupe: Troupe) -> None:
    url = f"http://127.0.0.1:{free_port()}/readyz"
    actor = troupe.play("raise SystemExit('no such database')", ready_url=url)
    with pytest.raises(ActorFailed, match=r"(?s)actor-0 was not ready.*no such database"):
        await actor.ready(10)


def test_the_state_of_no_process_is_empty() -> None:
    assert process_state(2**22 + 1) == ""
