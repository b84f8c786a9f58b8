"""The connections for ``ctx.transaction()``: bounded, in the order of the requests, kept at hand.

SQLAlchemy's pool costs a transaction as much as its INSERT does: a greenlet each to check out and
to close, and for each handler that waits a task; a handler that comes later may overtake those that
wait. So a connection that only executed statements is kept for the next handler.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.errors import Unavailable
from holdfast.store.connections import answered, checkout, discard, is_usable
from holdfast.store.database import reason


class TransactionPool:
    """At most as many connections as the pool of ``engine`` has; ``used`` counts those lent."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.used = 0
        self._engine = engine
        pool = engine.pool
        assert isinstance(pool, AsyncAdaptedQueuePool)  # noqa: S101 - as create_engine makes it
        self._wait_seconds = pool.timeout()
        self._free = asyncio.Semaphore(pool.size())
        self._kept: list[AsyncConnection] = []

    async def acquire(self) -> AsyncConnection:
        """Return a connection that may be expected to answer; ``release`` or ``discard`` it.

        Raises:
            Unavailable: all of them stayed in use, or Postgres cannot be reached.
        """
        await self._wait()
        try:
            connection = await self._connection()
        except BaseException:
            self._free.release()
            raise
        self.used += 1
        return connection

    async def release(self, connection: AsyncConnection, *, keep: bool) -> None:
        """Take back a connection without a transaction.

        ``keep``: none of its options can have been changed; else SQLAlchemy's pool resets them.
        """
        if keep and not connection.invalidated:
            answered(connection)
            self._kept.append(connection)
            self._returned()
        else:
            try:
                await connection.close()
            finally:
                self._returned()

    async def discard(self, connection: AsyncConnection) -> None:
        """Terminate a connection on which an answer may be pending."""
        try:
            await discard(connection)
        finally:
            self._returned()

    async def close(self) -> None:
        """Return the kept connections to the pool of the engine, which closes them."""
        while self._kept:
            await self._kept.pop().close()

    def _returned(self) -> None:
        self.used -= 1
        self._free.release()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._wait_seconds if self._free.locked() else None):
                await self._free.acquire()
        except TimeoutError as error:
            raise Unavailable(
                "all connections for ctx.transaction() are in use: keep transactions short, or "
                "increase HOLDFAST_TRANSACTION_CONNECTIONS"
            ) from error

    async def _connection(self) -> AsyncConnection:
        while self._kept:
            connection = self._kept.pop()
            if await is_usable(connection, self._engine):
                return connection
            await discard(connection)
        try:
            return await checkout(self._engine)
        except (OSError, DBAPIError, PoolTimeout) as error:
            raise Unavailable(
                f"cannot reach Postgres for ctx.transaction(): {reason(error)}"
            ) from error
