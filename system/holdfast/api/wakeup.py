"""Wake schedulers when a task is due now: an optimisation that may fail, and never blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

_RETRY_SECONDS = 1.0


class Wakeup:
    """Sends at most one poke at a time; requests made meanwhile share the next one."""

    def __init__(self, poke: Callable[[], Awaitable[object]]) -> None:
        self._poke = poke
        self._flight: asyncio.Task[None] | None = None
        self._requested = False

    def request(self) -> None:
        """Request a poke without waiting for it."""
        self._requested = True
        if self._flight is None or self._flight.done():
            self._flight = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Cancel the poke in flight; schedulers poll anyway."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.gather(self._flight, return_exceptions=True)

    async def _run(self) -> None:
        while self._requested:
            self._requested = False
            try:
                await self._poke()
            except Exception:  # noqa: BLE001 - a submit does not depend on Redis
                await asyncio.sleep(_RETRY_SECONDS)
