"""Measure the lag of a role's event loop, which blocking callbacks cause."""

from __future__ import annotations

import asyncio

from holdfast.runtime.supervision import LoopSupervisor
from holdfast.telemetry.metrics import Metrics

_EVERY_SECONDS = 0.5


class LoopLag:
    """A loop that sleeps and measures how late it wakes. It does not affect readiness."""

    def __init__(self, loops: LoopSupervisor, metrics: Metrics) -> None:
        self._loops = loops
        self._metrics = metrics
        loops.add("pulse", self.measure, stalled_seconds=None)

    async def measure(self) -> None:
        """Sleep once and observe the delay."""
        loop = asyncio.get_running_loop()
        due = loop.time() + _EVERY_SECONDS
        await self._loops.sleep(_EVERY_SECONDS)
        if not self._loops.stopping:
            self._metrics.event_loop_lag.observe(max(0.0, loop.time() - due))
