"""A `holdfast up` in a process of its own, with its supervisor and its default settings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from chaos.errors import ChaosError
from chaos.live.torture.victims import Stack
from chaos.mutants import SOURCES, import_path
from holdfast.devstack import up_environment
from holdfast.devstack.host import free_port
from holdfast.devstack.reaper import Reaper

LOG = "up.log"  # in the directory of the stack
_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
_LOOK_SECONDS = 0.1
_API = re.compile(r"(http://\S+)/docs\b")


@dataclass(frozen=True, slots=True)
class UpStack:
    """A running stack: where it answers, and its processes."""

    api: str
    postgres: str
    redis: str
    processes: Stack


@contextlib.asynccontextmanager
async def running_up(
    modules: tuple[str, ...], schedulers: int, workers: int, reaper: Reaper, directory: Path
) -> AsyncIterator[UpStack]:
    """Run the stack during the block; data and output (``LOG``) are in ``directory``.

    Raises:
        ChaosError: it did not start, or its processes cannot be found.
    """
    log = directory / LOG
    argv = [sys.executable, "-m", "holdfast", "up", "--data-dir", str(directory / "data")]
    argv += ["--workers", str(workers), "--schedulers", str(schedulers)]
    argv += [word for module in modules for word in ("--app", module)]
    own = {"HOLDFAST_API_PORT": str(free_port()), "NO_COLOR": "1"}
    own |= {"PYTHONPATH": import_path(SOURCES)}
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("HOLDFAST_", "OTEL_"))}
    with log.open("wb") as output:
        process = reaper.spawn(argv, env=inherited | own, stdout=output, stderr=subprocess.STDOUT)
    try:
        api = await _until_up(process, log)
        servers = up_environment.read(directory / "data")
        stack = Stack(process.pid)
        roles = {f"scheduler-{number}" for number in range(1, schedulers + 1)}
        roles |= {f"worker-{number}" for number in range(1, workers + 1)}
        stack.require(roles | {"api", "postgres", "valkey"})
        yield UpStack(
            api=api,
            postgres=servers["HOLDFAST_DATABASE_URL"],
            redis=servers["HOLDFAST_REDIS_URL"],
            processes=stack,
        )
    finally:
        await asyncio.shield(_end(process))
        reaper.forget(process)


async def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        for victim in Stack(process.pid).victims().values():
            victim.resume()  # what is stopped cannot end
        process.terminate()
    try:
        await asyncio.to_thread(process.wait, _STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # its reaper ends the children
        await asyncio.to_thread(process.wait)


async def _until_up(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for the message that the stack is up; return the URL of the API in it."""
    give_up = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        text = log.read_text(errors="replace")
        found = _API.search(text)
        if "Ctrl-C stops it" in text and found:
            return found.group(1)
        await asyncio.sleep(_LOOK_SECONDS)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise ChaosError(f"`holdfast up` was not up within {_START_SECONDS:.0f} s:\n{tail}")
