"""What workers announced, cached: which names can run, and with which limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from system.errors import HoldfastError
from system.records import Announcement

_PAUSE_SECONDS = 1.0
_STALE_SECONDS = 30.0


class Names:
    """Announcements as of the last read.

    Read again when a name is missing (at most once per second, so that nonsense names are no
    load), and when the last read is half a minute old, for limits that a new worker changed.
    """

    def __init__(self, read: Callable[[], Awaitable[dict[str, Announcement]]]) -> None:
        self._read = read
        self._known: dict[str, Announcement] = {}
        self._read_at: float | None = None
        self._failure: HoldfastError | None = None
        self._lock = asyncio.Lock()

    async def get(self, name: str) -> Announcement | None:
        """The announcement of ``name``, None if nobody made one.

        Raises:
            HoldfastError: the name is not known here, and the database did not tell.
        """
        if not self._enough(name):
            async with self._lock:
                # Those who waited for the lock share what the first one was told.
                if not self._enough(name):
                    await self._refresh()
        found = self._known.get(name)
        if found is None and self._failure is not None:
            raise type(self._failure)(str(self._failure))
        return found

    def known(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._known)

    def _enough(self, name: str) -> bool:
        if self._read_at is None:
            return False
        age = asyncio.get_running_loop().time() - self._read_at
        return age < (_STALE_SECONDS if name in self._known else _PAUSE_SECONDS)

    async def _refresh(self) -> None:
        try:
            self._known = await self._read()
            self._failure = None
        except HoldfastError as error:
            self._failure = error
        self._read_at = asyncio.get_running_loop().time()
