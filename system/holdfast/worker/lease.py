"""A worker's view of its own lease.

In the database the lease starts when a heartbeat is executed. Here it starts when that heartbeat
was sent, so it expires here before any scheduler may mark this worker dead (C. G. Gray,
D. R. Cheriton: Leases, SOSP 1989). This needs no synchronized clocks, only monotonic clocks of
equal rate. uvloop's clock is unsuitable: it is cached while callbacks run, even if the process is
suspended meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import time

from holdfast.runtime.supervision import wait_for_event


class Lease:
    """Held from the first answered heartbeat on; once ``dead`` it stays dead."""

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
        """End the lease permanently: this worker was marked dead in the database."""
        self.dead.set()
        self._changed.set()

    async def wait(self, seconds: float) -> None:
        """Wait up to ``seconds`` until the lease is renewed or lost."""
        self._changed.clear()
        await wait_for_event(self._changed, seconds)
