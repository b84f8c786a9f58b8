"""Faults of processes: signals to real roles, and the evidence that they struck."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from chaos.live.actors import Actor, ActorFailed, process_state
from chaos.live.witness import Incarnation, Witness, WitnessAway
from chaos.plan import FaultPlan

Hold = Callable[[], Awaitable[None]]
# A strike waits so long for its worker to have something to lose.
_BUSY_SECONDS = 0.5
_STOP_SECONDS = 1.0
_REPLACED_SECONDS = 10.0
_GRACEFUL_SECONDS = 30.0
# A process comes back only when its database does.
_BACK_SECONDS = 60.0
_UP_SECONDS = 10.0
_CLOCK_MOVES_SECONDS = 2.0


class ProcessStrike:
    """One strike on one process. ``run`` returns whether it was felt, and the evidence.

    ``clock_file``: where the actor looks when its clock is to be moved (``chaos.live.skewed``).
    """

    def __init__(self, plan: FaultPlan, actor: Actor, witness: Witness, clock_file: Path) -> None:
        self._plan = plan
        self._actor = actor
        self._witness = witness
        self._clock_file = clock_file
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

        Only a process that is up can stop gracefully: for that it is waited longer.
        """
        if self._plan.fault in {"terminate", "restart"}:
            with contextlib.suppress(ActorFailed):
                await self._actor.ready(_UP_SECONDS, patient=True)
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
        # One machine, one clock: whoever registered before is the one that was struck.
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
        """State T in /proc at both ends of the pause; whether it was marked dead is told too."""
        struck = time.time()
        pid = self._actor.pause()
        started = time.monotonic()
        try:
            while process_state(pid) != "T" and time.monotonic() < started + _STOP_SECONDS:
                await asyncio.sleep(0.005)
            stopped = process_state(pid) == "T"
            await hold()
            still = process_state(pid) == "T"
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
        ahead = await self._move_clock(wanted)
        try:
            await hold()
        finally:
            same = self._actor.alive and self._actor.pid == pid
            back = await self._move_clock(0) if same else None
        evidence = {"actor": self._actor.name, "pid": pid, "ahead": ahead, "ahead_after": back}
        return same and ahead is not None and abs(ahead - wanted) < 1, evidence

    async def _move_clock(self, seconds: float) -> float | None:
        """Seconds by which its clock is ahead of ours afterwards; None: it did not say."""
        shows = self._clock_file.with_name(f"{self._clock_file.name}.shows")
        shows.unlink(missing_ok=True)
        self._clock_file.write_text(str(seconds), encoding="ascii")
        self._actor.notify(signal.SIGUSR1)
        give_up = time.monotonic() + _CLOCK_MOVES_SECONDS
        while time.monotonic() < give_up:
            if shows.exists():
                return round(float(shows.read_text(encoding="ascii")) - time.time(), 2)
            await asyncio.sleep(0.01)
        return None
