"""A whole Holdfast for one measurement: ``python -m system up`` in a directory of its own.

Nothing of ``system`` is imported: what it says on its output is all that is known of it. The
schedulers are children of this process, so that a run can hold them back: tasks then pile up
with everything else warm, and the drain begins when a scheduler starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 120.0
STOP_SECONDS = 40.0
_PLACES = {
    "api": re.compile(r"(http://\S+)/docs\b"),
    "postgres": re.compile(r"(postgresql://\S+)"),
    "valkey": re.compile(r"(rediss?://\S+)"),
}


class LoadtestError(Exception):
    """The measurement cannot be made; the message says why and what to do."""


def find_places(line: str, found: dict[str, str]) -> None:
    """Note the URLs that a line of ``system up`` tells: api, postgres, valkey."""
    for place, pattern in _PLACES.items():
        if place not in found and (match := pattern.search(line)):
            found[place] = match.group(1)


class Stack:
    """Servers, API and workers; an async context manager. Schedulers start when asked to."""

    def __init__(self, *, workers: int) -> None:
        self._workers = workers
        self._directory: Path | None = None
        self._up: Process | None = None
        self._schedulers: list[Process] = []
        self._output: deque[str] = deque(maxlen=40)
        self._reader: asyncio.Task[None] | None = None
        self._places: dict[str, str] = {}
        self._ready = asyncio.Event()

    @property
    def api_url(self) -> str:
        """Base URL of the API."""
        return self._places["api"]

    @property
    def database_url(self) -> str:
        """URL of Holdfast's database."""
        return self._places["postgres"]

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def start_schedulers(self, count: int) -> None:
        """Start the processes that make due tasks flow to the workers."""
        environment = {
            "HOLDFAST_DATABASE_URL": self._places["postgres"],
            "HOLDFAST_REDIS_URL": self._places["valkey"],
        }
        for number in range(1, count + 1):
            label = {"HOLDFAST_LABEL": f"loadtest-scheduler-{number}"}
            self._schedulers.append(await spawn(["system", "scheduler"], environment | label))

    async def stop_schedulers(self) -> None:
        """Stop them; tasks stay where they are."""
        stopping, self._schedulers = self._schedulers, []
        await asyncio.gather(*(end(process) for process in stopping))

    def check(self) -> None:
        """Raise LoadtestError if the stack, or a scheduler, has died."""
        dead = [process for process in self._schedulers if process.returncode is not None]
        if dead:
            raise LoadtestError(f"a scheduler ended with exit code {dead[0].returncode}")
        if self._up is None or self._up.returncode is not None:
            raise self._failed("ended in the middle of the measurement")

    async def _start(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="holdfast-load-"))
        # Run as root, the servers become a user who must be able to get at their data.
        self._directory.chmod(0o755)
        arguments = ["system", "up", "--data-dir", str(self._directory), "--schedulers", "0"]
        arguments += ["--workers", str(self._workers)]
        environment = {"HOLDFAST_API_PORT": str(free_port())}
        self._up = await spawn(arguments, environment, stdout=PIPE)
        self._reader = asyncio.create_task(self._read(self._up))
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._ready.wait()
        except TimeoutError:
            raise self._failed(f"was not up within {START_SECONDS:.0f} s") from None
        if len(self._places) < len(_PLACES):
            raise self._failed("did not come up")

    async def _read(self, process: Process) -> None:
        """Keep the pipe empty for as long as the stack lives."""
        assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
        while line := await process.stdout.readline():
            text = line.decode(errors="replace").rstrip()
            self._output.append(text)
            find_places(text, self._places)
            if len(self._places) == len(_PLACES):
                self._ready.set()
        await process.wait()
        self._ready.set()

    def _failed(self, what: str) -> LoadtestError:
        said = "\n".join(f"  {line}" for line in self._output) or "  (nothing)"
        return LoadtestError(f"`python -m system up` {what}; it said:\n{said}")

    async def _stop(self) -> None:
        await self.stop_schedulers()
        if self._up is not None:
            await end(self._up)
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


async def spawn(
    module: Sequence[str], environment: Mapping[str, str], *, stdout: int = DEVNULL
) -> Process:
    """``python -m`` as a child in a session of its own: Ctrl-C reaches only the loadtest."""
    inherited = {k: v for k, v in os.environ.items() if k != "HOLDFAST_API_KEYS"}
    defaults = {"HOLDFAST_LOG_LEVEL": "WARNING", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *module,
        env={**defaults, **inherited, **environment},
        stdin=DEVNULL,
        stdout=stdout,
        stderr=STDOUT if stdout == PIPE else None,
        start_new_session=True,
    )


async def end(process: Process) -> None:
    """SIGTERM, and SIGKILL if that was not enough."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
                return


def free_port() -> int:
    """A port of loopback that nobody uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
