"""Faults of processes: signals to real roles, and the evidence that they struck."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

from chaos.live.actors import Actor, process_state
from chaos.live.witness import Incarnation, Witness
from chaos.plan import FaultPlan

Hold = Callable[[], Awaitable[None]]
# A strike waits so long for its worker to have something to lose.
_BUSY_SECONDS = 0.5
_STOP_SECONDS = 1.0
_REPLACED_SECONDS = 10.0
_GRACEFUL_SECONDS = 30.0


class ProcessStrike:
    """One strike on one process. ``run`` returns whether it was felt, and the evidence."""

    def __init__(
        self, plan: FaultPlan, actor: Actor, witness: Witness, lease_seconds: float
    ) -> None:
        self._plan = plan
        self._actor = actor
        self._witness = witness
        self._lease_seconds = lease_seconds
        self._is_worker = actor.name.startswith("worker-")

    async def run(self, hold: Hold) -> tuple[bool, dict[str, Any]]:
        """Strike, ``hold``, undo."""
        faults = {
            "kill": self._kill,
            "pause": self._pause,
            "terminate": self._terminate,
            "restart": self._restart,
        }
        return await faults[self._plan.fault](hold)

    async def busy(self) -> None:
        """Wait a moment for a worker to run something: a strike on an idle one proves little."""
        give_up = time.monotonic() + _BUSY_SECONDS
        while self._is_worker and time.monotonic() < give_up:
            if await self._witness.running(self._actor.name):
                return
            await asyncio.sleep(0.01)

    async def _kill(self, hold: Hold) -> tuple[bool, dict[str, Any]]:
        before = await self._incarnation()
        pid = self._actor.kill()
        return await self._ended(pid, before, hold, code=-signal.SIGKILL)

    async def _terminate(self, hold: Hold) -> tuple[bool, dict[str, Any]]:
        before = await self._incarnation()
        pid = self._actor.terminate()
        return await self._ended(pid, before, hold, code=0)

    async def _restart(self, hold: Hold) -> tuple[bool, dict[str, Any]]:
        async def at_once() -> None:
            return

        return await self._terminate(at_once)

    async def _ended(
        self, pid: int, before: Incarnation | None, hold: Hold, *, code: int
    ) -> tuple[bool, dict[str, Any]]:
        """The process is reaped with ``code``; a worker comes back as another incarnation."""
        try:
            found = await asyncio.wait_for(self._actor.gone(), _GRACEFUL_SECONDS)
            await hold()
        finally:
            self._actor.restart()
        await self._actor.ready()
        evidence: dict[str, Any] = {"actor": self._actor.name, "pid": pid, "exit": found}
        if not self._is_worker:
            return found == code, evidence
        after = await self._replaced(before)
        evidence["incarnation"] = before and before.worker_id
        evidence["replaced_by"] = after and after.worker_id
        return found == code and after is not None, evidence

    async def _replaced(self, before: Incarnation | None) -> Incarnation | None:
        give_up = time.monotonic() + _REPLACED_SECONDS
        while time.monotonic() < give_up:
            now = await self._incarnation()
            if now is not None and (before is None or now.worker_id != before.worker_id):
                return now
            await asyncio.sleep(0.05)
        return None

    async def _pause(self, hold: Hold) -> tuple[bool, dict[str, Any]]:
        """State T in /proc all the time; past its lease also: marked dead meanwhile."""
        before = await self._incarnation()
        pid = self._actor.pause()
        started = time.monotonic()
        try:
            while process_state(pid) != "T" and time.monotonic() < started + _STOP_SECONDS:
                await asyncio.sleep(0.005)
            stopped = process_state(pid) == "T"
            await hold()
            still = process_state(pid) == "T"
            dead = before is not None and await self._witness.is_dead(before.worker_id)
        finally:
            self._actor.resume()
        seconds = time.monotonic() - started
        evidence = {
            "actor": self._actor.name,
            "pid": pid,
            "stopped": stopped and still,
            "held_seconds": round(seconds, 3),
            "incarnation": before and before.worker_id,
            "marked_dead": dead,
        }
        past_lease = self._is_worker and seconds > self._lease_seconds
        return stopped and still and (dead or not past_lease), evidence

    async def _incarnation(self) -> Incarnation | None:
        return await self._witness.incarnation(self._actor.name) if self._is_worker else None
