"""Start, watch, restart and stop the processes of the one-machine stack.

A `RoleProcess` runs a role of Holdfast and shows its output; a `SupervisedServer` is an embedded
server. A process that keeps exiting soon after its start is restarted with growing pauses.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from holdfast.devstack.host import EmbeddedError
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.server_process import ServerProcess

POLL_SECONDS = 0.05
HEALTHY_SECONDS = 60.0
BACKOFF_MIN_SECONDS = 0.25
BACKOFF_MAX_SECONDS = 15.0

Say = Callable[[str, str], None]
"""Show text from a source; the arguments are the source and the text."""


class SupervisedProcess(abc.ABC):
    """A process that is restarted whenever it exits."""

    def __init__(self, name: str, say: Say) -> None:
        self.name = name
        self.deaths = 0
        """Consecutive exits within HEALTHY_SECONDS of a start."""
        self._say = say
        self._started_at = 0.0

    async def keep(self, stopping: asyncio.Event) -> None:
        """Restart it after every exit, until ``stopping``."""
        while not stopping.is_set():
            if not self.is_running:
                await self._restart(stopping)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), POLL_SECONDS)

    async def start(self) -> None:
        """Start it.

        Raises:
            EmbeddedError: it did not come up.
        """
        self._started_at = asyncio.get_running_loop().time()
        await self._start()

    @property
    @abc.abstractmethod
    def is_running(self) -> bool: ...

    @abc.abstractmethod
    async def _start(self) -> None: ...

    @abc.abstractmethod
    async def stop(self, grace_seconds: float) -> None:
        """Ask it to exit, and kill it after ``grace_seconds``. Idempotent."""

    @abc.abstractmethod
    def kill(self) -> None:
        """Send SIGKILL. Idempotent."""

    @abc.abstractmethod
    def how_it_ended(self) -> str: ...

    async def _restart(self, stopping: asyncio.Event) -> None:
        lived = asyncio.get_running_loop().time() - self._started_at
        self.deaths = 0 if lived > HEALTHY_SECONDS else self.deaths + 1
        pause = min(BACKOFF_MIN_SECONDS * 2**self.deaths, BACKOFF_MAX_SECONDS)
        pause = pause if self.deaths > 1 else 0.0
        delay = f" in {pause:.1f} s" if pause else ""
        self._say("holdfast", f"{self.name} {self.how_it_ended()}; restarting it{delay}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), pause or POLL_SECONDS)
        if stopping.is_set():
            return
        try:
            await self.start()
        except (EmbeddedError, OSError) as error:
            self._say("holdfast", str(error))


class RoleProcess(SupervisedProcess):
    """A process that runs a role of Holdfast; its output is shown line by line."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        reaper: Reaper,
        say: Say,
        ready_url: str = "",
    ) -> None:
        super().__init__(name, say)
        self.ready_url = ready_url
        self._argv = [sys.executable, "-m", "holdfast", *arguments]
        self._environment = environment
        self._reaper = reaper
        self._process: subprocess.Popen[bytes] | None = None
        self._code: int | None = None
        self._output: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        if self._process is None:
            return False
        self._code = self._process.poll()
        if self._code is None:
            return True
        self._reaper.forget(self._process)
        self._process = None
        return False

    async def _start(self) -> None:
        await self._finish_output()
        self._process = self._reaper.spawn(
            self._argv,
            env=os.environ | self._environment,
            cwd=Path.cwd(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._output = asyncio.create_task(self._show_output(self._process))

    async def stop(self, grace_seconds: float) -> None:
        if self.is_running and self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)
            try:
                async with asyncio.timeout(grace_seconds):
                    await self.ended()
            except TimeoutError:
                self._say("holdfast", f"{self.name} did not stop within {grace_seconds:.0f} s")
                self.kill()
                await self.ended()
        await self._finish_output()

    async def ended(self) -> int:
        """Wait until it exits; return its exit code."""
        while self.is_running:
            await asyncio.sleep(POLL_SECONDS)
        await self._finish_output()
        return self._code or 0

    def kill(self) -> None:
        if self.is_running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def how_it_ended(self) -> str:
        if self._code is not None and self._code < 0:
            return f"was killed by {signal.Signals(-self._code).name}"
        return f"exited with code {self._code}"

    async def is_ready(self, client: httpx.AsyncClient) -> bool:
        """Return whether its readiness URL answers 200."""
        try:
            return (await client.get(self.ready_url)).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def _show_output(self, process: subprocess.Popen[bytes]) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), process.stdout
        )
        rest = b""
        try:
            while chunk := await reader.read(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._say(self.name, line.decode(errors="replace"))
            if rest:
                self._say(self.name, rest.decode(errors="replace"))
        finally:
            transport.close()

    async def _finish_output(self) -> None:
        """Show remaining output, without waiting for a grandchild that keeps the pipe open."""
        if self._output is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._output, 1.0)
            self._output = None


class SupervisedServer(SupervisedProcess):
    """An embedded server; blocking starts and stops run in a thread."""

    def __init__(self, server: ServerProcess, say: Say) -> None:
        super().__init__(server.name, say)
        self.server = server

    @property
    def is_running(self) -> bool:
        return self.server.is_running

    async def _start(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def stop(self, grace_seconds: float) -> None:
        await asyncio.to_thread(self.server.stop)

    def kill(self) -> None:
        if (pid := self.server.pid) is not None:
            os.kill(pid, signal.SIGKILL)

    def how_it_ended(self) -> str:
        return f"exited (log: {self.server.log_file})"
