"""A transaction whose last two statements go to the driver, past SQLAlchemy's machinery.

Handlers use SQLAlchemy. What Holdfast adds to their transaction is one statement and COMMIT, and
the way through SQLAlchemy costs three times as much as these two do themselves. It remains the way
if the adapter has not sent BEGIN yet, and while another statement of the handler is in flight (the
adapter lets one wait for the other).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

import asyncpg
from sqlalchemy import Connection, TextClause
from sqlalchemy.dialects.postgresql import asyncpg as dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.store.connections import DRIVER_ERRORS
from holdfast.store.decoding import Row

_STATEMENTS_MAX = 256


class DriverTransaction:
    """The transaction of a connection that was checked out.

    After an error of ``begin``, ``commit`` or ``rollback`` the caller discards the connection.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        # Without a greenlet, which only I/O needs.
        self._sync = cast("Connection", connection.sync_connection)
        self._root = self._sync.begin()

    async def begin(self) -> None:
        """Send BEGIN now, not with the first statement: a connection that is lost fails here.

        Raises:
            OSError, sqlalchemy.exc.DBAPIError: it cannot be used.
        """
        # Not a public API: an adapter without it sends BEGIN with the first statement.
        start = getattr(self._adapter, "_start_transaction", None)
        if start is not None:
            try:
                await start()
            except self._sync.dialect.loaded_dbapi.Error as error:
                raise DBAPIError("BEGIN", None, error) from error

    async def rows(self, statement: TextClause, parameters: Mapping[str, Any]) -> list[Row]:
        """Run a statement and return its rows.

        Raises:
            sqlalchemy.exc.DBAPIError: Postgres refused it, or the connection was lost.
        """
        sql, names = _compiled(statement)
        values = [parameters[name] for name in names]
        if self._begun is None:
            return await self.connection.run_sync(_execute, sql, tuple(values))
        try:
            return [dict(record) for record in await self._driver.fetch(sql, *values)]
        except DRIVER_ERRORS as error:
            raise self._failed(sql, error) from error

    async def commit(self) -> None:
        """Send COMMIT.

        Raises:
            sqlalchemy.exc.DBAPIError: Postgres refused it, or the connection was lost.
        """
        begun = self._begun
        if begun is None:
            await self.connection.run_sync(lambda _: self._root.commit())
        else:
            try:
                await begun.commit()
            except DRIVER_ERRORS as error:
                raise self._failed("COMMIT", error) from error
            self._adapter._transaction = None  # noqa: SLF001
            self._root.commit()  # sends nothing: for SQLAlchemy no transaction has begun

    async def rollback(self) -> None:
        """Send ROLLBACK."""
        await self.connection.run_sync(lambda _: self._root.rollback())

    def _failed(self, sql: str, error: Exception) -> DBAPIError:
        """Return SQLAlchemy's error for one of the driver; tell SQLAlchemy of a lost connection."""
        lost = self._driver.is_closed()
        if lost:
            self._sync.invalidate(error)
        return DBAPIError(sql, None, error, connection_invalidated=lost)

    @property
    def _begun(self) -> Any:
        """The driver's transaction, None if the driver cannot be used directly."""
        # Not a public API: with an adapter without these attributes everything takes the long way.
        if not hasattr(self._adapter, "_execute_mutex") or self._adapter._execute_mutex.locked():  # noqa: SLF001
            return None
        return getattr(self._adapter, "_transaction", None)

    @property
    def _adapter(self) -> Any:
        return self._sync.connection.dbapi_connection

    @property
    def _driver(self) -> asyncpg.Connection:
        return cast("asyncpg.Connection", self._sync.connection.driver_connection)


def _execute(connection: Connection, sql: str, values: tuple[Any, ...]) -> list[Row]:
    cursor = connection.connection.cursor()
    try:
        cursor.execute(sql, values)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    except connection.dialect.loaded_dbapi.Error as error:
        raise DBAPIError(sql, None, error) from error


@lru_cache(_STATEMENTS_MAX)
def _compiled(statement: TextClause) -> tuple[str, tuple[str, ...]]:
    """Return the statement with the driver's placeholders, and the names of its parameters."""
    compiled = statement.compile(dialect=dialect.dialect())  # type: ignore[no-untyped-call]
    return compiled.string, tuple(compiled.positiontup or ())
