"""The compose arena, as far as it can be tested without a Docker engine."""

from __future__ import annotations

import asyncio
import re
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from tcp_server import accepting
from waiting import until

from chaos.compose import containers
from chaos.compose.containers import Container
from chaos.compose.docker import ContainerEvent, DockerError, exit_code
from chaos.compose.servers import ContainerServer
from chaos.compose.socket_stats import RemoteSocketStats
from chaos.live.socket_stats import ByteCounts, EdgeTraffic
from chaos.mutants import import_path
from chaos.nemesis.process_faults import ProcessEnd
from holdfast.devstack.host import free_port
from holdfast.runtime.healthcheck import problem

ROOT = Path(__file__).parents[2]

# -------------------------------------------------------------------------- without Docker


def run_calm(path: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run ``--arena compose`` with PATH set to ``path`` only."""
    return subprocess.run(
        [sys.executable, "-m", "chaos", "run", "calm", "--arena", "compose"],
        cwd=home,
        env={"PATH": str(path), "PYTHONPATH": import_path(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.stack
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("", "there is no docker command on PATH: install it, or use --arena live"),
        ("echo no daemon >&2; exit 1", "the Docker engine does not answer: no daemon"),
        ('[ "$1" = version ] && exit 0; echo no such command >&2; exit 1', "no compose plugin"),
        ("echo 2.3.4", "docker compose is 2.3.4, the arena needs 2.20 or newer"),
    ],
)
def test_unusable_docker_is_reported_without_a_traceback(
    script: str, said: str, tmp_path: Path
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    if script:
        docker = programs / "docker"
        docker.write_text(f"#!/bin/sh\n{script}\n")
        docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    done = run_calm(programs, tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.stack
def test_unsupported_scenario_is_refused() -> None:
    argv = [sys.executable, "-m", "chaos", "run", "clock_skew", "--arena", "compose"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.search("clock_skew: .*: a container has no clock of its own", done.stderr)


def test_exit_codes_are_converted_to_those_of_processes() -> None:
    assert [exit_code(docker) for docker in (0, 3, 137, 143, 255)] == [0, 3, -9, -15, 255]


def test_exhaust_connects_to_another_database() -> None:
    """Otherwise terminate_backends, which ends all sessions of that database, would end it."""
    server = ContainerServer("postgres", "0123", 5, "postgresql://u:p@127.0.0.1:5/holdfast")
    assert server.url() == "postgresql://u:p@127.0.0.1:5/holdfast"
    assert server.url("postgres") == "postgresql://u:p@127.0.0.1:5/postgres"


@pytest.mark.parametrize("name", ["sink", "collector", "socket-stats"])
async def test_helper_containers_pass_their_health_check(name: str, tmp_path: Path) -> None:
    port = free_port()
    module = "chaos.compose.socket_stats" if name == "socket-stats" else f"chaos.observers.{name}"
    argv = ["-m", module, "--port", str(port)]
    if name != "socket-stats":
        argv += ["--log" if name == "sink" else "--file", str(tmp_path / "received")]
    process = await asyncio.create_subprocess_exec(sys.executable, *argv, cwd=ROOT)
    try:
        async with asyncio.timeout(60):
            while (said := await asyncio.to_thread(problem, port)) and "no answer" in said:
                assert process.returncode is None
                await asyncio.sleep(0.05)
        assert said is None
    finally:
        process.terminate()
        await process.wait()


# ------------------------------------------------------------------ socket statistics


@pytest.fixture
async def socket_stats() -> AsyncIterator[RemoteSocketStats]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chaos.compose.socket_stats", "--port", str(port), cwd=ROOT
    )
    socket_stats = RemoteSocketStats(port)
    async with asyncio.timeout(60):
        while True:
            with suppress(httpx.HTTPError):
                await socket_stats.sockets([port])
                break
            await asyncio.sleep(0.05)
    yield socket_stats
    await socket_stats.close()
    process.terminate()
    await process.wait()


async def test_bytes_are_counted_from_the_server_side(socket_stats: RemoteSocketStats) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(100):
                writer.write(data * 2)
        writer.close()

    async with accepting(echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"before")
        await reader.readexactly(12)
        meters = EdgeTraffic(socket_stats, {"worker-1->redis": port})
        await meters.count()
        writer.write(b"123")
        await reader.readexactly(6)
        seconds = await socket_stats.probe("worker-1->redis", port)
        assert seconds is not None
        assert seconds < 5
        counted = None
        async with asyncio.timeout(5):  # received means acknowledged, which the kernel may delay
            while counted != ByteCounts(sent=3, received=6, connections=1, closed=0):
                counted = (await meters.count())["worker-1->redis"]
        writer.close()
        await writer.wait_closed()
        while (await meters.count())["worker-1->redis"].closed == 0:
            await asyncio.sleep(0.02)


async def test_probe_of_a_closed_edge_returns_none(socket_stats: RemoteSocketStats) -> None:
    assert await socket_stats.probe("worker-1->redis", free_port()) is None


async def test_probe_ends_when_its_client_disconnects(socket_stats: RemoteSocketStats) -> None:
    gone = asyncio.Event()

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        gone.set()
        writer.close()

    async with accepting(be_silent) as port:
        probing = asyncio.create_task(socket_stats.probe("worker-1->postgres", port))
        await asyncio.sleep(0.3)
        assert not probing.done()
        probing.cancel()
        await asyncio.wait_for(gone.wait(), 5)


# -------------------------------------------------------------------------- containers


class FakeEngine:
    """Responds like the docker command; the test sends the events of the container."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.fails: dict[str, str] = {}
        self.pid = 100

    async def __call__(self, *argv: str) -> str:
        if argv[0] == "inspect":
            return f"{self.pid}\n"
        if argv[0] == "start":
            self.pid += 1
        self.asked.append(argv[:-1])
        await asyncio.sleep(0.01)
        if argv[0] in self.fails:
            raise DockerError(self.fails[argv[0]])
        return ""


def event(action: str, code: int | None = None) -> ContainerEvent:
    return ContainerEvent("worker-1", action, "0123", 12.5, code)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    engine = FakeEngine()
    monkeypatch.setattr(containers, "engine", engine)
    return engine


@pytest.fixture
def exits() -> list[ProcessEnd]:
    return []


@pytest.fixture
async def worker(engine: FakeEngine, exits: list[ProcessEnd]) -> Container:
    worker = Container("worker-1", RemoteSocketStats(1), exits.append)
    worker.handle_event(event("start"))
    await until(lambda: worker.alive)
    return worker


async def test_container_restarts_after_an_unplanned_exit(
    engine: FakeEngine, worker: Container, exits: list[ProcessEnd]
) -> None:
    worker.handle_event(event("die", 3))
    assert not worker.alive
    await until(lambda: engine.asked == [("start",)])
    assert not worker.alive, "requested, but the engine has not reported a start"
    worker.handle_event(event("start"))
    await until(lambda: worker.alive)
    assert worker.pid == 101
    assert engine.asked == [("start",)]
    assert exits == [ProcessEnd("worker-1", 100, 3, 12.5, planned=False)]


async def test_planned_exit_waits_for_restart(
    engine: FakeEngine, worker: Container, exits: list[ProcessEnd]
) -> None:
    assert worker.kill() == 100
    gone = asyncio.create_task(worker.gone())
    await asyncio.sleep(0.1)
    assert not gone.done(), "requested, but the engine has not reported an exit"
    worker.handle_event(event("die", -9))
    assert await gone == -9
    await asyncio.sleep(0.3)
    assert engine.asked == [("kill", "--signal", "KILL")]
    worker.restart()
    await until(lambda: engine.asked[1:] == [("start",)])
    assert exits[0].planned


async def test_kill_of_an_exited_container_is_ignored(
    engine: FakeEngine, worker: Container
) -> None:
    engine.fails["kill"] = "Error response from daemon: container 0123 is not running"
    worker.kill()
    worker.handle_event(event("die", 3))
    assert await worker.gone() == 3


async def test_failed_request_is_raised(engine: FakeEngine, worker: Container) -> None:
    engine.fails["kill"] = "permission denied"
    worker.kill()
    with pytest.raises(Exception, match="worker-1: permission denied"):
        await worker.gone()


async def test_container_is_paused_only_after_the_engine_event(
    engine: FakeEngine, worker: Container
) -> None:
    worker.pause()
    await asyncio.sleep(0.1)
    assert not worker.stopped
    worker.handle_event(event("pause"))
    assert worker.stopped
    worker.resume()
    worker.handle_event(event("unpause"))
    assert not worker.stopped
    await until(lambda: engine.asked == [("pause",), ("unpause",)])


async def test_stopped_container_is_not_restarted(engine: FakeEngine, worker: Container) -> None:
    stopping = asyncio.create_task(worker.stop(7))
    await until(lambda: bool(engine.asked))
    worker.handle_event(event("die", 0))
    await stopping
    await asyncio.sleep(0.3)
    assert engine.asked == [("stop", "--time", "7")]
    assert not worker.alive
    await worker.stop()
    assert engine.asked == [("stop", "--time", "7")]
