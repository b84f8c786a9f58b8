"""Faults of processes: what is done to a role, in any arena, and the evidence that it struck."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from chaos.plan import FaultPlan
from chaos.witness import Incarnation, Witness, WitnessAway

Hold = Callable[[], Awaitable[None]]
# A strike waits so long for its worker to have something to lose.
_BUSY_SECONDS = 0.5
_STOP_SECONDS = 1.0
_REPLACED_SECONDS = 10.0
_GRACEFUL_SECONDS = 30.0
# A process comes back only when its database does.
_BACK_SECONDS = 60.0
_UP_SECONDS = 10.0


class ActorFailed(Exception):
    """A process could not be brought to work; the message ends with the tail of its log."""


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """A process of a role ended: ``code`` negative for a signal, ``at`` Unix time, ``planned`` when
    the harness meant it.
    """

    actor: str
    pid: int
    code: int
    at: float
    planned: bool


class Actor(Protocol):
    """One named role that has a process, kept running: after an end that was not planned a new one
    is started at once, after a planned one when ``restart`` says so.
    """

    name: str

    @property
    def pid(self) -> int:
        """Of the current process; raises ActorFailed when there is none."""

    @property
    def alive(self) -> bool:
        """Whether it has a process now."""

    @property
    def stopped(self) -> bool:
        """Whether its process is paused, as the system tells it."""

    async def ready(self, timeout_seconds: float = ..., *, patient: bool = ...) -> None:
        """Wait until the role says that it can work (patient: however often it dies meanwhile);
        raises ActorFailed.
        """

    def kill(self) -> int:
        """SIGKILL; returns the pid. No new process until ``restart``."""

    def terminate(self) -> int:
        """SIGTERM, the graceful stop; returns the pid. No new process until ``restart``."""

    def pause(self) -> int:
        """Nothing of it runs until ``resume``; returns the pid."""

    def resume(self) -> int:
        """It goes on; returns the pid."""

    def restart(self) -> None:
        """Let a new process start after a planned end."""

    def abandon(self) -> None:
        """Kill it if it runs, and never start it again."""

    async def gone(self) -> int:
        """Wait until the current process has ended; its exit code."""

    async def move_clock(self, seconds: float) -> float | None:
        """Its wall clock is ahead by so many; by how many it then says it is (None: it is mute)."""


class ProcessStrike:
    """One strike on one process. ``run`` returns whether it was felt, and the evidence."""

    def __init__(self, plan: FaultPlan, actor: Actor, witness: Witness) -> None:
        self._plan = plan
        self._actor = actor
        self._witness = witness
        self._is_worker = actor.name.startswith("worker-")

    async def run(self, hold: Hold) -> tuple[bool, dict[str, Any]]:
        """Strike, ``hold``, undo."""
        faults = {
            "kill": self._kill,
            "pause": self._pause,
            "terminate": self._terminate,
            "restart": self._restart,
            "skew": self._skew,
        }
        return await faults[self._plan.fault](hold)

    async def busy(self) -> None:
        """Wait a moment for a worker to run something: a strike on an idle one proves little.

        Only a process that is there can be struck, and only one that is up can stop gracefully: for
        that it is waited longer (the database may still call busy one whose process is gone).
        """
        if self._plan.fault in {"terminate", "restart"}:
            with contextlib.suppress(ActorFailed):
                await self._actor.ready(_UP_SECONDS, patient=True)
        give_up = time.monotonic() + _UP_SECONDS
        while not self._actor.alive and time.monotonic() < give_up:
            await asyncio.sleep(0.01)
        give_up = time.monotonic() + _BUSY_SECONDS
        while self._is_worker and time.monotonic() < give_up:
            try:
                if await self._witness.running(self._actor.name):
                    return
            except WitnessAway:
                return
            await asyncio.sleep(0.01)

    async def _kill(self, hold: Hold) -> tuple[bool, dict[str, Any]]:
        return await self._ended(self._actor.kill(), hold, code=-signal.SIGKILL)

    async def _terminate(self, hold: Hold) -> tuple[bool, dict[str, Any]]:
        return await self._ended(self._actor.terminate(), hold, code=0)

    async def _restart(self, hold: Hold) -> tuple[bool, dict[str, Any]]:
        async def at_once() -> None:
            return

        felt, evidence = await self._terminate(at_once)
        await hold()
        return felt, evidence

    async def _ended(self, pid: int, hold: Hold, *, code: int) -> tuple[bool, dict[str, Any]]:
        """The process is reaped with ``code``; a worker comes back as another incarnation."""
        # One clock: whoever registered before is the one that was struck.
        struck = time.time()
        try:
            found = await asyncio.wait_for(self._actor.gone(), _GRACEFUL_SECONDS)
            await hold()
        finally:
            self._actor.restart()
        await self._actor.ready(_BACK_SECONDS, patient=True)
        evidence: dict[str, Any] = {"actor": self._actor.name, "pid": pid, "exit": found}
        if not self._is_worker:
            return found == code, evidence
        before, after = await self._replaced(struck)
        evidence["incarnation"] = before and before.worker_id
        evidence["replaced_by"] = after and after.worker_id
        return found == code and after is not None, evidence

    async def _around(self, struck: float) -> tuple[Incarnation | None, Incarnation | None]:
        """The incarnation of that instant (Unix time), and the first one after it so far."""
        known = await self._witness.incarnations(self._actor.name)
        before = [each for each in known if each.started <= struck]
        after = [each for each in known if each.started > struck]
        return before[-1] if before else None, after[0] if after else None

    async def _replaced(self, struck: float) -> tuple[Incarnation | None, Incarnation | None]:
        """The incarnation struck, and the first one after it (None: there was none in time)."""
        give_up = time.monotonic() + _REPLACED_SECONDS
        while True:
            before, after = await self._around(struck)
            if after or time.monotonic() > give_up:
                return before, after
            await asyncio.sleep(0.05)

    async def _pause(self, hold: Hold) -> tuple[bool, dict[str, Any]]:
        """Stopped at both ends of the pause; whether it was marked dead meanwhile is told too."""
        struck = time.time()
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
            before, _ = await self._around(struck)
            evidence["incarnation"] = before and before.worker_id
            evidence["marked_dead"] = before and before.dead_reason
        return stopped and still, evidence

    async def _skew(self, hold: Hold) -> tuple[bool, dict[str, Any]]:
        """The clock that the process itself reads shows the wrong time, and later the right one."""
        wanted = self._plan.attributes["seconds"]
        pid = self._actor.pid
        ahead = await self._actor.move_clock(wanted)
        try:
            await hold()
        finally:
            same = self._actor.alive and self._actor.pid == pid
            back = await self._actor.move_clock(0) if same else None
        evidence = {"actor": self._actor.name, "pid": pid, "ahead": ahead, "ahead_after": back}
        return same and ahead is not None and abs(ahead - wanted) < 1, evidence
