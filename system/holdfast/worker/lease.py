"""A worker's view of its own lease.

By the database's clock the lease runs from the moment a heartbeat is carried out. Here it runs from
the moment that heartbeat was sent, so it is over here before any scheduler may mark this worker
dead (C. G. Gray, D. R. Cheriton: Leases, SOSP 1989). This needs no wall clock, only monotonic
seconds of the same length on both sides. The event loop's clock will not do: it stands still while
callbacks run, even if the process is suspended during one.
"""

from __future__ import annotations

import asyncio
import math
import time

from holdfast.runtime.supervision import wait_for_event


class Lease:
    """Held from the first heartbeat that is answered; once ``dead`` it stays dead."""

    def __init__(self, seconds: float) -> None:
        self.dead = asyncio.Event()
        self._seconds = seconds
        self._ends = -math.inf
        self._changed = asyncio.Event()

    @property
    def held(self) -> bool:
        """Whether no scheduler can have marked this worker dead yet."""
        return not self.dead.is_set() and time.monotonic() < self._ends

    def renew(self, sent: float) -> None:
        """Extend the lease: a heartbeat sent at ``sent`` (``time.monotonic``) was answered."""
        self._ends = sent + self._seconds
        self._changed.set()

    def lose(self) -> None:
        """End the lease for good: the database has this worker marked dead."""
        self.dead.set()
        self._changed.set()

    async def wait(self, seconds: float) -> None:
        """Wait up to ``seconds`` until the lease is renewed or lost."""
        self._changed.clear()
        await wait_for_event(self._changed, seconds)
