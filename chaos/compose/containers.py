"""Roles as containers that are kept running and broken, observed through engine events."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import httpx

from chaos.compose.docker import ContainerEvent, DockerError, engine, tail
from chaos.compose.socket_stats import RemoteSocketStats
from chaos.live.actors import (
    READY_SECONDS,
    RESTART_DELAY_MAX_SECONDS,
    RESTART_DELAY_SECONDS,
    SHORT_LIFE_SECONDS,
)
from chaos.nemesis.process_faults import ActorFailed, ProcessEnd

_LOOK_SECONDS = 0.1


class Container:
    """One named role (an ``Actor``) whose container is restarted whenever it ends.

    Requests are queued for the docker command while the caller continues; the state follows the
    events of the engine only (``handle_event``). After a planned end it waits for ``restart``,
    after any other it is started immediately.
    """

    def __init__(
        self, name: str, socket_stats: RemoteSocketStats, on_exit: Callable[[ProcessEnd], None]
    ) -> None:
        self.name = name
        self.container = ""
        self._socket_stats = socket_stats
        self._on_exit = on_exit
        self._pid = 0
        self._last_pid = 0
        self._paused = False
        self._planned = False
        self._stopping = False
        self._may_start = asyncio.Event()
        self._ended = asyncio.Event()
        self._code: int | None = None
        self._delay = RESTART_DELAY_SECONDS
        self._started_at = 0.0
        self.starts = 0
        self._queued: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._pid_reader: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ events of the engine

    def handle_event(self, event: ContainerEvent) -> None:
        """Update the state from an event of the container."""
        match event.action:
            case "start":
                self._handle_start(event)
            case "die":
                self._handle_exit(event)
            case "pause" | "unpause":
                self._paused = event.action == "pause"
            case _:
                pass

    def _handle_start(self, event: ContainerEvent) -> None:
        self.container = event.container
        self.starts += 1
        self._started_at = time.monotonic()
        self._ended.clear()
        self._pid_reader = asyncio.create_task(self._read_pid(), name=f"pid of {self.name}")

    async def _read_pid(self) -> None:
        pid = int(await engine("inspect", "--format", "{{.State.Pid}}", self.container))
        if not self._ended.is_set():  # otherwise the process has already ended
            self._pid = self._last_pid = pid

    def _handle_exit(self, event: ContainerEvent) -> None:
        self._pid, self._paused = 0, False
        self._code = event.code
        planned, self._planned = self._planned, False
        self._on_exit(ProcessEnd(self.name, self._last_pid, event.code or 0, event.at, planned))
        self._ended.set()
        self._keeper = asyncio.create_task(self._start_again(planned), name=f"keep {self.name}")

    async def _start_again(self, planned: bool) -> None:  # noqa: FBT001
        if planned or time.monotonic() - self._started_at >= SHORT_LIFE_SECONDS:
            self._delay = RESTART_DELAY_SECONDS
        if planned:
            await self._may_start.wait()
        else:
            await asyncio.sleep(self._delay)
            self._delay = min(2 * self._delay, RESTART_DELAY_MAX_SECONDS)
        if self._stopping:
            return
        await engine("start", self.container)

    # ------------------------------------------------------------------ the Actor protocol

    @property
    def pid(self) -> int:
        """The pid of its first process, on the engine's machine."""
        if not self._pid:
            raise ActorFailed(f"{self.name} has no process now")
        return self._pid

    @property
    def alive(self) -> bool:
        return self._pid != 0

    @property
    def stopped(self) -> bool:
        return self._paused

    async def ready(self, timeout_seconds: float = READY_SECONDS, *, patient: bool = False) -> None:
        """Wait until /readyz returns 200; raises ActorFailed."""
        give_up = time.monotonic() + timeout_seconds
        starts = self.starts
        while time.monotonic() < give_up:
            if await self.readiness() == 200:
                return
            if self.starts > starts + 3 and not patient:
                break  # it keeps dying, so waiting is useless
            await asyncio.sleep(_LOOK_SECONDS)
        raise ActorFailed(
            f"{self.name} was not ready within {timeout_seconds:.0f} s ({self.starts} starts); "
            f"its log ends:\n{await tail(self.container)}"
        )

    async def readiness(self) -> int | None:
        """Return the status of its /readyz; None without an answer."""
        if self.alive:
            with contextlib.suppress(httpx.HTTPError):
                return await self._socket_stats.readiness(self.name)
        return None

    def kill(self) -> int:
        """``docker kill``."""
        return self._end("kill", "--signal", "KILL")

    def terminate(self) -> int:
        """``docker kill --signal TERM``."""
        return self._end("kill", "--signal", "TERM")

    def pause(self) -> int:
        """``docker pause``: the engine's freezer stops all of its processes."""
        pid = self.pid
        self._queue("pause")
        return pid

    def resume(self) -> int:
        """``docker unpause``."""
        pid = self.pid
        self._queue("unpause")
        return pid

    def restart(self) -> None:
        """Let it start again after a planned end."""
        self._may_start.set()

    async def gone(self) -> int:
        """Wait until it has ended; return its exit code."""
        if self._queued is not None:
            await self._queued
        await self._ended.wait()
        return self._code or 0

    async def move_clock(self, seconds: float) -> float | None:
        raise ActorFailed(f"{self.name}: the clock of a container is the machine's")

    def abandon(self) -> None:
        """Kill it if it runs, and never start it again."""
        self._stopping = True
        self._may_start.set()
        if self.alive:
            self.kill()

    async def stop(self, grace_seconds: float = 5.0) -> None:
        """End it for good: SIGTERM, SIGKILL after the grace. Raises DockerError."""
        self._stopping = True
        self._may_start.set()
        for task in (self._keeper, self._pid_reader):
            if task is not None:
                await task  # a pending start must finish first
        if self.alive:
            if self._paused:
                self._queue("unpause")
            self._planned = True
            self._queue("stop", "--time", str(max(1, round(grace_seconds))))
            await self.gone()

    def _end(self, *request: str) -> int:
        pid = self.pid
        self._planned = True
        if not self._stopping:
            self._may_start.clear()
        self._queue(*request)
        return pid

    def _queue(self, *request: str) -> None:
        before = self._queued

        async def do() -> None:
            if before is not None:
                await asyncio.gather(before, return_exceptions=True)
            try:
                await engine(request[0], *request[1:], self.container)
            except DockerError as error:
                # It ended by itself meanwhile; the engine reports its exit code.
                if "is not running" not in str(error):
                    raise ActorFailed(f"{self.name}: {error}") from error

        self._queued = asyncio.create_task(do(), name=f"{request[0]} {self.name}")
