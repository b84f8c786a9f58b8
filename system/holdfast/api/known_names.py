"""Cache the task names and queues that workers have announced."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from holdfast.api.cached import Cached

_FRESH_SECONDS = 1.0


class KnownNames:
    """Names that are ``always`` known, and the announced ones as of the last read.

    Names are never removed, so they are read again only if one is missing, and at most once per
    second, so that requests with unknown names cause no load.
    """

    def __init__(
        self, read: Callable[[], Awaitable[list[str]]], always: Iterable[str] = ()
    ) -> None:
        self._announced = Cached(read, _FRESH_SECONDS, error_seconds=_FRESH_SECONDS)
        self._always = frozenset(always)
        self._known = self._always

    async def contains(self, name: str) -> bool:
        """Return whether ``name`` is known.

        Raises:
            HoldfastError: the name is not cached, and the database did not answer.
        """
        if name not in self._known:
            self._known = self._always.union(await self._announced.get())
        return name in self._known

    def all(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._known)
