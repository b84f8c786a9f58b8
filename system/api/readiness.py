"""Ready means progress: the database answers now, and its schema is the one this code needs."""

from __future__ import annotations

import asyncio

from system import revision
from system.api import problems
from system.api.problems import Problem
from system.errors import HoldfastError
from system.settings import Settings
from system.store import Store

_FRESH_SECONDS = 1.0
_MIGRATIONS_SECONDS = 30.0
_ANSWER_SECONDS = 2.0


class Readiness:
    """Asks the database at most once a second, however many ask here."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._lock = asyncio.Lock()
        self._checked_at: float | None = None
        self._migrations_fit_at: float | None = None
        self._reason: str | None = None

    async def require(self) -> None:
        """Returns when ready.

        Raises:
            Problem: 503, saying why not.
        """
        async with self._lock:
            if self._older(self._checked_at, _FRESH_SECONDS):
                self._reason = await self._look()
                self._checked_at = asyncio.get_running_loop().time()
        if self._reason is not None:
            raise Problem(problems.NOT_READY, self._reason)

    async def _look(self) -> str | None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._store.clock()
                if self._older(self._migrations_fit_at, _MIGRATIONS_SECONDS):
                    await revision.check(self._settings)
                    self._migrations_fit_at = asyncio.get_running_loop().time()
        except TimeoutError:
            return f"Postgres did not answer within {_ANSWER_SECONDS:g} s."
        except HoldfastError as error:
            return str(error)
        return None

    def _older(self, at: float | None, seconds: float) -> bool:
        return at is None or asyncio.get_running_loop().time() - at >= seconds
