"""Decide readiness: the database answers, and its schema is the one this code needs."""

from __future__ import annotations

import asyncio

from holdfast.api import problems
from holdfast.api.cached import Cached
from holdfast.api.problems import Problem
from holdfast.errors import HoldfastError
from holdfast.settings import Settings
from holdfast.store import revision
from holdfast.store.store import Store

_FRESH_SECONDS = 1.0
_MIGRATIONS_SECONDS = 30.0
_ANSWER_SECONDS = 2.0


class Readiness:
    """Queries the database at most once per second, regardless of the number of probes."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._store = store
        self._reason = Cached(self._look, _FRESH_SECONDS)
        self._migrations = Cached(lambda: revision.check(settings), _MIGRATIONS_SECONDS)

    async def require(self) -> None:
        """Return if ready.

        Raises:
            Problem: 503 with the reason.
        """
        reason = await self._reason.get()
        if reason is not None:
            raise Problem(problems.NOT_READY, reason)

    async def _look(self) -> str | None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._store.clock()
                await self._migrations.get()
        except TimeoutError:
            return f"Postgres did not answer within {_ANSWER_SECONDS:g} s."
        except HoldfastError as error:
            return str(error)
        return None
