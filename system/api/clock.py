"""The database's clock, asked seldom: good to the second, for horizons measured in days."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

_FRESH_SECONDS = 60.0


class DatabaseClock:
    """What the database's clock shows, carried on by the event loop's."""

    def __init__(self, read: Callable[[], Awaitable[datetime]]) -> None:
        self._read = read
        self._seen: tuple[datetime, float] | None = None

    async def now(self) -> datetime:
        """Aware UTC.

        Raises:
            Unavailable, OutcomeUnknown: the database was needed and did not answer.
        """
        loop = asyncio.get_running_loop()
        if self._seen is None or loop.time() - self._seen[1] > _FRESH_SECONDS:
            self._seen = (await self._read(), loop.time())
        instant, at = self._seen
        return instant + timedelta(seconds=loop.time() - at)
