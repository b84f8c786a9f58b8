"""A fresh API process whose memory and turns of the event loop are measured.

Run as a program, this file is that process: the API, and a tick in its event loop.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from waiting import wait_until

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


@contextmanager
def measured_api(
    settings: Settings, directory: Path, sources: Path = ROOT
) -> Iterator[MeasuredApi]:
    """Run an API process from ``sources`` on the servers of ``settings`` until the block ends."""
    from chaos.mutants import import_path  # not in the process that is measured

    turns = directory / f"turns-{time.monotonic_ns()}"
    turns.touch()
    shared = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
    environment = shared | {
        "PYTHONPATH": f"{import_path(sources)}:{Path(__file__).parent}",
        "HOLDFAST_DATABASE_URL": settings.database_url,
        "HOLDFAST_REDIS_URL": settings.redis_url,
        "HOLDFAST_API_PORT": "0",
        "HOLDFAST_LOG_FORMAT": "json",
    }
    with subprocess.Popen(
        [sys.executable, __file__, turns],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            url = _url(process.stderr)
            with httpx.Client(base_url=url, timeout=60) as client:
                wait_until(lambda: client.get("/readyz").status_code == 200)
                yield MeasuredApi(process.pid, client, turns)
        finally:
            process.kill()


def _url(lines: Iterator[str]) -> str:
    """Return the URL in the log line of the started API."""
    seen = []
    for line in lines:
        seen.append(line)
        if line.startswith("{") and json.loads(line)["event_name"] == "api_started":
            url: str = json.loads(line)["url"]
            return url
    raise AssertionError(f"the API did not start: {''.join(seen)}")


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
    from holdfast.cli import _run

    _run(_serve(Path(sys.argv[1])))
