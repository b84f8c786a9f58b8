"""Inject faults into processes of roles, in any arena, and collect the evidence."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from chaos.errors import ChaosError
from chaos.observers.database import DatabaseObserver, DatabaseUnavailable, Incarnation
from chaos.scenario.faults import FaultSpec

Hold = Callable[[], Awaitable[None]]
# Whether the effect of a fault was observed, and the evidence.
Observed = tuple[bool, dict[str, Any]]
# How long an injection waits for its worker to run a task.
_BUSY_SECONDS = 0.5
_STOP_SECONDS = 1.0
_REPLACED_SECONDS = 10.0
_GRACEFUL_SECONDS = 30.0
# A process becomes ready only after its database.
_BACK_SECONDS = 60.0
_UP_SECONDS = 10.0


class ActorFailed(ChaosError):
    """A process did not start or ended unexpectedly; the message ends with the tail of its log."""


class NotReady(ActorFailed):
    """A role did not become ready in time.

    ``actor``: which; ``starts``: of its process while it was waited for.
    """

    def __init__(self, actor: str, starts: int, message: str) -> None:
        super().__init__(message)
        self.actor = actor
        self.starts = starts


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """The end of a role's process.

    ``code``: negative for a signal. ``at``: Unix time. ``planned``: whether the harness ended it.
    """

    actor: str
    pid: int
    code: int
    at: float
    planned: bool


class Actor(Protocol):
    """One named role whose process is kept running.

    After an unplanned end a new process is started immediately, after a planned one by ``restart``.
    """

    name: str

    @property
    def pid(self) -> int:
        """The current process; raises ActorFailed when there is none."""

    @property
    def alive(self) -> bool:
        """Whether it has a process now."""

    @property
    def stopped(self) -> bool:
        """Whether the operating system reports its process as paused."""

    async def readiness(self) -> int | None:
        """Return the HTTP status of its readiness; None without an answer."""

    async def ready(self, timeout_seconds: float = ..., *, patient: bool = ...) -> None:
        """Wait until the role reports that it is ready; raises ActorFailed.

        ``patient``: keep waiting however often its process dies meanwhile.
        """

    def kill(self) -> int:
        """SIGKILL; returns the pid. No new process until ``restart``."""

    def terminate(self) -> int:
        """SIGTERM, the graceful stop; returns the pid. No new process until ``restart``."""

    def pause(self) -> int:
        """Stop its execution until ``resume``; returns the pid."""

    def resume(self) -> int:
        """Continue its execution; returns the pid."""

    def restart(self) -> None:
        """Let a new process start after a planned end."""

    def abandon(self) -> None:
        """Kill it if it runs, and never start it again."""

    async def gone(self) -> int:
        """Wait until the current process has ended; returns its exit code."""

    async def move_clock(self, seconds: float) -> float | None:
        """Set its wall clock ahead by ``seconds``.

        Returns how far ahead its clock then reads; None if it did not report it.
        """


class ProcessFault:
    """One injection of a fault into one process."""

    def __init__(self, fault: FaultSpec, actor: Actor, observer: DatabaseObserver) -> None:
        self._fault = fault
        self._actor = actor
        self._observer = observer
        self._is_worker = actor.name.startswith("worker-")
        self._graceful = fault.fault in {"terminate", "restart"}

    async def run(self, hold: Hold) -> Observed:
        """Inject the fault, ``hold``, undo it; return whether it was observed, and the evidence."""
        faults = {
            "kill": self._kill,
            "pause": self._pause,
            "terminate": self._terminate,
            "restart": self._restart,
            "skew": self._skew,
        }
        return await faults[self._fault.fault](hold)

    async def busy(self) -> None:
        """Wait briefly until the worker runs a task: a fault in an idle worker proves little.

        A graceful stop needs a process that answers, so that is awaited for longer. It need not be
        ready, which takes until the end of an outage. The database is not enough to decide this: it
        may still list tasks of a process that is gone.
        """
        give_up = time.monotonic() + _UP_SECONDS
        while self._graceful and time.monotonic() < give_up:
            if await self._actor.readiness() is not None:
                break
            await asyncio.sleep(0.01)
        while not self._actor.alive and time.monotonic() < give_up:
            await asyncio.sleep(0.01)
        give_up = time.monotonic() + _BUSY_SECONDS
        while self._is_worker and time.monotonic() < give_up:
            try:
                if await self._observer.running(self._actor.name):
                    return
            except DatabaseUnavailable:
                return
            await asyncio.sleep(0.01)

    async def _kill(self, hold: Hold) -> Observed:
        return await self._ended(self._actor.kill(), hold, code=-signal.SIGKILL)

    async def _terminate(self, hold: Hold) -> Observed:
        return await self._ended(self._actor.terminate(), hold, code=0)

    async def _restart(self, hold: Hold) -> Observed:
        async def end_immediately() -> None:
            return

        observed, evidence = await self._terminate(end_immediately)
        await hold()
        return observed, evidence

    async def _ended(self, pid: int, hold: Hold, *, code: int) -> Observed:
        """Wait for the exit with ``code``, and for the next incarnation of a worker."""
        # Harness and database share a clock: an incarnation registered before this is the target.
        began = time.time()
        try:
            found = await asyncio.wait_for(self._actor.gone(), _GRACEFUL_SECONDS)
            await hold()
        finally:
            self._actor.restart()
        await self._actor.ready(_BACK_SECONDS, patient=True)
        evidence: dict[str, Any] = {"actor": self._actor.name, "pid": pid, "exit": found}
        if not self._is_worker:
            return found == code, evidence
        before, after = await self._replaced(began)
        evidence["incarnation"] = before and before.worker_id
        evidence["replaced_by"] = after and after.worker_id
        return found == code and after is not None, evidence

    async def _around(self, instant: float) -> tuple[Incarnation | None, Incarnation | None]:
        """Return the incarnation at that instant (Unix time), and the first one after it so far."""
        known = await self._observer.incarnations(self._actor.name)
        before = [each for each in known if each.started <= instant]
        after = [each for each in known if each.started > instant]
        return before[-1] if before else None, after[0] if after else None

    async def _replaced(self, instant: float) -> tuple[Incarnation | None, Incarnation | None]:
        """Wait for the incarnation that replaces the one at that instant; None if it is late."""
        give_up = time.monotonic() + _REPLACED_SECONDS
        while True:
            before, after = await self._around(instant)
            if after or time.monotonic() > give_up:
                return before, after
            await asyncio.sleep(0.05)

    async def _pause(self, hold: Hold) -> Observed:
        """Observed if the process is stopped at both ends of the pause.

        The evidence says whether the worker was marked dead meanwhile.
        """
        began = time.time()
        pid = self._actor.pause()
        started = time.monotonic()
        try:
            while not self._actor.stopped and time.monotonic() < started + _STOP_SECONDS:
                await asyncio.sleep(0.005)
            stopped = self._actor.stopped
            await hold()
            still = self._actor.stopped
        finally:
            self._actor.resume()
        seconds = time.monotonic() - started
        evidence: dict[str, Any] = {
            "actor": self._actor.name,
            "pid": pid,
            "stopped": stopped and still,
            "held_seconds": round(seconds, 3),
        }
        if self._is_worker:
            before, _ = await self._around(began)
            evidence["incarnation"] = before and before.worker_id
            evidence["marked_dead"] = before and before.dead_reason
        return stopped and still, evidence

    async def _skew(self, hold: Hold) -> Observed:
        """Observed if the clock that the process reads is off by about the requested seconds."""
        wanted = self._fault.attributes["seconds"]
        pid = self._actor.pid
        ahead = await self._actor.move_clock(wanted)
        try:
            await hold()
        finally:
            same = self._actor.alive and self._actor.pid == pid
            back = await self._actor.move_clock(0) if same else None
        evidence = {"actor": self._actor.name, "pid": pid, "ahead": ahead, "ahead_after": back}
        return same and ahead is not None and abs(ahead - wanted) < 1, evidence
