"""A fresh API process whose memory and turns of the event loop are measured.

Run as a program, this file forks such processes: the API, and a tick in its event loop.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import httpx
from waiting import wait_until

from holdfast.cli import _run
from holdfast.settings import Settings

ROOT = Path(__file__).parents[2]
_TICK_SECONDS = 0.001
_NOTED_SECONDS = 0.005  # shorter turns are not written down


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of the event loop that ended at ``at`` (monotonic clock of the machine)."""

    at: float
    processor_seconds: float


@dataclass
class MeasuredApi:
    """The process; ``client`` is a client of it."""

    pid: int
    client: httpx.Client
    turns: Path

    def peak_bytes(self) -> int:
        """Return the largest resident memory so far (VmHWM)."""
        return self._status("VmHWM")

    def resident_bytes(self) -> int:
        """Return the resident memory."""
        return self._status("VmRSS")

    def longest_turn_seconds(self, since: float) -> float:
        """Return the most processor time that the loop took between two turns after ``since``."""
        lines = self.turns.read_text().splitlines()
        turns = [Turn(*map(float, line.split())) for line in lines]
        return max((turn.processor_seconds for turn in turns if turn.at > since), default=0.0)

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.split(f"{name}:")[1].split()[0]) * 1024


@dataclass(frozen=True, slots=True)
class ApiForker:
    """A process that has imported the API but never runs it; each started API is a fork of it."""

    process: subprocess.Popen[str]

    @contextmanager
    def measured_api(self, settings: Settings, directory: Path) -> Iterator[MeasuredApi]:
        """Run a fresh API process on the servers of ``settings`` until the block ends."""
        turns = directory / f"turns-{time.monotonic_ns()}"
        turns.touch()
        log = turns.with_suffix(".log")
        log.touch()
        environment = {
            "HOLDFAST_DATABASE_URL": settings.database_url,
            "HOLDFAST_REDIS_URL": settings.redis_url,
            "HOLDFAST_API_PORT": "0",
            "HOLDFAST_LOG_FORMAT": "json",
        }
        pid = self._fork(_Start(str(turns), str(log), environment))
        try:
            with httpx.Client(base_url=_url(pid, log), timeout=60) as client:
                wait_until(lambda: client.get("/readyz").status_code == 200)
                yield MeasuredApi(pid, client, turns)
        finally:
            if _runs(pid):
                os.kill(pid, signal.SIGKILL)

    def _fork(self, start: _Start) -> int:
        """Have it fork and return the pid of the child."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(asdict(start)), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


@dataclass(frozen=True, slots=True)
class _Start:
    """What a forked API gets: its files, and its HOLDFAST_* variables."""

    turns: str
    log: str
    environment: dict[str, str]


@contextmanager
def api_forker(sources: Path = ROOT) -> Iterator[ApiForker]:
    """Yield a process that forks APIs which run from ``sources``.

    A fork starts with the memory of an API that has answered nothing, in a tenth of the time that
    its imports would take.
    """
    from chaos.mutants import import_path  # not in the process that is measured

    shared = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
    path = f"{import_path(sources)}:{Path(__file__).parent}"
    with subprocess.Popen(
        [sys.executable, __file__],
        env=shared | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield ApiForker(process)  # it ends with its input


def _url(pid: int, log: Path) -> str:
    """Wait until the API has started and return its URL."""
    urls: list[str] = []

    def started() -> bool:
        assert _runs(pid), f"the API did not start: {log.read_text()}"
        lines = [json.loads(line) for line in log.read_text().splitlines() if line[0] == "{"]
        urls.extend(line["url"] for line in lines if line["event_name"] == "api_started")
        return bool(urls)

    wait_until(started)
    return urls[0]


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _fork_until_eof() -> None:
    """Fork an API for each line of the standard input; print its pid."""
    import uvloop  # noqa: F401 - like the API, for its forks

    import holdfast.api.server  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
    for line in sys.stdin:
        start = _Start(**json.loads(line))
        if pid := os.fork():
            print(pid, flush=True)
        else:
            _run_forked(start)


def _run_forked(start: _Start) -> NoReturn:
    """Run the API in this forked child."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(start.log, os.O_WRONLY | os.O_APPEND), sys.stderr.fileno())
        os.environ.update(start.environment)
        _run(_serve(Path(start.turns)))
    except BaseException:  # noqa: BLE001 - must not return to the loop of its parent
        traceback.print_exc()
    finally:
        os._exit(1)


async def _serve(turns: Path) -> int:
    from holdfast.api.server import run_api

    ticking = asyncio.create_task(_tick(turns))
    try:
        return await run_api(Settings())
    finally:
        ticking.cancel()


async def _tick(turns: Path) -> None:
    with turns.open("a", buffering=1) as file:
        before = time.thread_time()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.thread_time()
            if now - before > _NOTED_SECONDS:
                file.write(f"{time.monotonic()} {now - before}\n")
            before = now


if __name__ == "__main__":
    _fork_until_eof()
