"""What a worker knows of its own lease.

By the database's clock the lease runs from the moment a heartbeat is carried out. Here it runs from
the moment that heartbeat was sent, so it is over here before any scheduler may mark this worker
dead (C. G. Gray, D. R. Cheriton: Leases, SOSP 1989). No wall clock is needed, only seconds that
last as long here as there. Not the event loop's: it stands still while callbacks run, or while the
process is stopped among them.
"""

from __future__ import annotations

import asyncio
import math
import time

from system.loops import wait_for_event


class Lease:
    """Held from the first heartbeat that is answered; once ``dead`` it stays dead."""

    def __init__(self, seconds: float) -> None:
        self.dead = asyncio.Event()
        self._seconds = seconds
        self._ends = -math.inf
        self._changed = asyncio.Event()

    @property
    def held(self) -> bool:
        """Whether nobody can have marked this worker dead yet."""
        return not self.dead.is_set() and time.monotonic() < self._ends

    def renew(self, sent: float) -> None:
        """A heartbeat that was sent then (``time.monotonic``) was answered."""
        self._ends = sent + self._seconds
        self._changed.set()

    def lose(self) -> None:
        """The database says that this worker is dead."""
        self.dead.set()
        self._changed.set()

    async def wait(self, seconds: float) -> None:
        """Waits for the next word of the database about it, at most so long."""
        self._changed.clear()
        await wait_for_event(self._changed, seconds)
