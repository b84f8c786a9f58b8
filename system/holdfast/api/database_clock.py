"""Read the database's clock once a minute: accurate to a second, for limits of days."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from holdfast.api.cached import Cached

_FRESH_SECONDS = 60.0


class DatabaseClock:
    """The database's time at the last read, advanced by the event loop's clock."""

    def __init__(self, read: Callable[[], Awaitable[datetime]]) -> None:
        self._read = read
        self._reading = Cached(self._look, _FRESH_SECONDS)

    async def now(self) -> datetime:
        """Return the time as an aware datetime in UTC.

        Raises:
            Unavailable, OutcomeUnknown: a read was due, and the database did not answer.
        """
        instant, at = await self._reading.get()
        return instant + timedelta(seconds=asyncio.get_running_loop().time() - at)

    async def _look(self) -> tuple[datetime, float]:
        return await self._read(), asyncio.get_running_loop().time()
