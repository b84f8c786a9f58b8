"""Tells schedulers that something is due now: a short cut that may fail, and never delays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

_REST_SECONDS = 1.0


class Poker:
    """At most one poke in flight; those wished meanwhile become one more."""

    def __init__(self, poke: Callable[[], Awaitable[object]]) -> None:
        self._poke = poke
        self._flight: asyncio.Task[None] | None = None
        self._wished = False

    def poke(self) -> None:
        """Returns at once."""
        self._wished = True
        if self._flight is None or self._flight.done():
            self._flight = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Drop what is in flight: the schedulers poll anyway."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.gather(self._flight, return_exceptions=True)

    async def _run(self) -> None:
        while self._wished:
            self._wished = False
            try:
                await self._poke()
            except Exception:  # noqa: BLE001 - Redis down is no concern of a submit
                await asyncio.sleep(_REST_SECONDS)
