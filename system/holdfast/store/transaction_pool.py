"""The connections for ``ctx.transaction()``: bounded, in the order of the requests, kept at hand.

SQLAlchemy's pool costs a transaction as much as its INSERT does: a greenlet each to check out and
to close, and for each handler that waits a task; a handler that comes later may overtake those that
wait. So a connection that only executed statements is kept for the next handler.

A connection may be lost without the driver having noticed, which is seen when BEGIN is sent: then
another one is tried, so that no attempt fails for it.
"""

from __future__ import annotations

import asyncio
import contextlib

from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.errors import Unavailable
from holdfast.store.connections import answered, checkout, discard, is_usable
from holdfast.store.database import reason
from holdfast.store.driver import DriverTransaction


class TransactionPool:
    """At most as many connections as the pool of ``engine`` has; ``used`` counts those lent."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.used = 0
        self._engine = engine
        pool = engine.pool
        assert isinstance(pool, AsyncAdaptedQueuePool)  # noqa: S101 - as create_engine makes it
        self._wait_seconds = pool.timeout()
        self._size = pool.size()
        self._free = asyncio.Semaphore(self._size)
        self._kept: list[AsyncConnection] = []

    async def begin(self) -> DriverTransaction:
        """Return a transaction that has begun; ``release`` or ``discard`` its connection.

        Raises:
            Unavailable: all connections stayed in use, or Postgres cannot be reached.
        """
        await self._wait()
        try:
            begun = await self._begin()
        except BaseException:
            self._free.release()
            raise
        self.used += 1
        return begun

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

    async def _begin(self) -> DriverTransaction:
        try:
            for _ in range(self._size):  # every pooled connection may be lost
                connection = await self._connection()
                with contextlib.suppress(OSError, DBAPIError):
                    return await _begin_on(connection)
            return await _begin_on(await self._connection())
        except (OSError, DBAPIError, PoolTimeout) as error:
            raise Unavailable(
                f"cannot reach Postgres for ctx.transaction(): {reason(error)}"
            ) from error

    async def _connection(self) -> AsyncConnection:
        while self._kept:
            connection = self._kept.pop()
            if await is_usable(connection, self._engine):
                return connection
            await discard(connection)
        return await checkout(self._engine)


async def _begin_on(connection: AsyncConnection) -> DriverTransaction:
    """Begin on the connection, or discard it and raise."""
    try:
        begun = DriverTransaction(connection)
        await begun.begin()
    except BaseException:
        await discard(connection)
        raise
    return begun
