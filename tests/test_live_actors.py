"""Processes are started, broken, repaired and stopped for real."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from chaos.live.actors import Actor, ActorFailed, Command, Exit, process_state
from system.guardian import Guardian
from system.machine import free_port

FOREVER = "import time; print('up', flush=True)\nwhile True: time.sleep(0.01)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{FOREVER}"
READY = """
import http.server, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""
Make = Callable[..., Actor]


class Troupe:
    """Makes actors and stops them all in the end."""

    def __init__(self, directory: Path, guardian: Guardian) -> None:
        self.directory = directory
        self.guardian = guardian
        self.actors: list[Actor] = []
        self.exits: list[Exit] = []

    def play(self, code: str, *arguments: str, ready_url: str | None = None) -> Actor:
        argv = [sys.executable, "-c", code, *arguments]
        log = self.directory / f"{len(self.actors)}.log"
        command = Command(argv, {}, self.directory, log, ready_url)
        actor = Actor(f"actor-{len(self.actors)}", command, self.guardian, self.exits.append)
        self.actors.append(actor)
        actor.start()
        return actor


@pytest.fixture
async def troupe(tmp_path: Path, guardian: Guardian) -> AsyncIterator[Troupe]:
    troupe = Troupe(tmp_path, guardian)
    yield troupe
    await asyncio.gather(*(actor.stop(1) for actor in troupe.actors))


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not come about"
        await asyncio.sleep(0.01)


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


async def test_one_that_never_gets_ready_is_told_with_its_log(troupe: Troupe) -> None:
    url = f"http://127.0.0.1:{free_port()}/readyz"
    actor = troupe.play("raise SystemExit('no such database')", ready_url=url)
    with pytest.raises(ActorFailed, match=r"(?s)actor-0 was not ready.*no such database"):
        await actor.ready(10)


def test_the_state_of_no_process_is_empty() -> None:
    assert process_state(2**22 + 1) == ""
