"""Which names can run: those that a worker ever announced, cached."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from system.errors import HoldfastError

_PAUSE_SECONDS = 1.0


class Names:
    """Announced names as of the last read.

    No name is ever forgotten, so they are read again only when one is missing, and at most once per
    second: nonsense names are no load.
    """

    def __init__(self, read: Callable[[], Awaitable[list[str]]]) -> None:
        self._read = read
        self._known: frozenset[str] = frozenset()
        self._read_at: float | None = None
        self._failure: HoldfastError | None = None
        self._lock = asyncio.Lock()

    async def knows(self, name: str) -> bool:
        """Whether anybody announced ``name``.

        Raises:
            HoldfastError: the name is not known here, and the database did not tell.
        """
        if not self._enough(name):
            async with self._lock:
                # Those who waited for the lock share what the first one was told.
                if not self._enough(name):
                    await self._refresh()
        if name in self._known:
            return True
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))
        return False

    def all(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._known)

    def _enough(self, name: str) -> bool:
        if name in self._known:
            return True
        if self._read_at is None:
            return False
        return asyncio.get_running_loop().time() - self._read_at < _PAUSE_SECONDS

    async def _refresh(self) -> None:
        try:
            self._known = frozenset(await self._read())
            self._failure = None
        except HoldfastError as error:
            self._failure = error
        self._read_at = asyncio.get_running_loop().time()
