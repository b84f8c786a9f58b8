"""A bounded pool of autocommit connections, and what an error from Postgres means.

One call = one round trip outside any transaction. A call that is cancelled or not answered in
time never gives its connection back: its statement may still be running on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import AsyncAdaptedQueuePool, Connection, TextClause, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from system import arrays
from system.errors import Misconfigured, OutcomeUnknown, Unavailable, Unstorable
from system.rows import Row, all_rows
from system.settings import Settings

_CONFLICTS = frozenset({"40001", "40P01"})  # serialization failure, deadlock: send it again
_CONFLICT_RETRIES_MAX = 10
_UNSTORABLE_CLASSES = frozenset({"22", "23", "54"})
_REFUSED_CLASSES = frozenset({"53"})  # insufficient resources: the statement did not happen
_REFUSED = frozenset({"25006", "55P03", "57P03"})  # read only, lock not available, starting up
_UNMIGRATED = frozenset({"42P01", "42703"})  # no such table, no such column
_NO_DATABASE = "3D000"


def create_engine(
    settings: Settings, *, connections: int, application_name: str, autocommit: bool
) -> AsyncEngine:
    """An engine with at most ``connections`` connections, each opened when first needed.

    Sessions are never configured with SET (it must run behind PgBouncer): timeouts of the server
    belong to the role or the database.
    """
    engine = create_async_engine(
        settings.async_database_url,
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
        pool_size=connections,
        max_overflow=0,
        json_deserializer=orjson.loads,
        pool_timeout=settings.connect_timeout_seconds,
        connect_args={
            "timeout": settings.connect_timeout_seconds,
            "server_settings": {"application_name": application_name},
        },
    )
    event.listen(engine.sync_engine, "connect", arrays.introduce)
    return engine


def connections_used(engine: AsyncEngine) -> int:
    """How many connections of its pool are in use now."""
    pool = engine.pool
    return pool.checkedout() if isinstance(pool, AsyncAdaptedQueuePool) else 0


def sqlstate(error: BaseException) -> str:
    """The five characters Postgres gave for an error, or "" where it said nothing."""
    original = getattr(error, "orig", None)
    return str(getattr(original, "sqlstate", None) or "")


def classify(error: DBAPIError) -> Exception:
    """The error of ``system.errors`` that says what the caller may do next.

    Whatever is not known to have been refused may have happened: OutcomeUnknown.
    """
    code = sqlstate(error)
    message = str(error.orig).strip()
    if code[:2] in _UNSTORABLE_CLASSES:
        return Unstorable(message)
    if code in _UNMIGRATED:
        return Unmigrated(f"the database does not fit ({message}): run `holdfast migrate`")
    if code == _NO_DATABASE:
        return Misconfigured(f"{message}: create it, or correct HOLDFAST_DATABASE_URL")
    if code in _REFUSED or code[:2] in _REFUSED_CLASSES:
        return Unavailable(f"Postgres refused: {message}")
    if code and code[:2] not in {"08", "57"} and not error.connection_invalidated:
        return error  # a bug of ours: let it be seen as it is
    return OutcomeUnknown(f"the connection to Postgres broke while waiting for a reply: {message}")


class Unmigrated(Misconfigured):
    """A table or column does not exist."""


class Database:
    """``connections`` autocommit connections under one name in pg_stat_activity."""

    def __init__(self, settings: Settings, *, connections: int, application_name: str) -> None:
        self._timeout_seconds = settings.statement_timeout_seconds
        self._connect_timeout_seconds = settings.connect_timeout_seconds
        self.engine = create_engine(
            settings,
            connections=connections,
            application_name=application_name,
            autocommit=True,
        )

    async def close(self) -> None:
        """Closes every connection."""
        await self.engine.dispose()

    async def rows(
        self, statement: TextClause, parameters: Mapping[str, Any] | None = None
    ) -> list[Row]:
        """Run one statement and return all its rows.

        It is sent again after a deadlock or serialization failure, which undid it.

        Raises:
            Unavailable: nothing was done.
            OutcomeUnknown: the reply was lost or late.
            Unstorable: Postgres refused a value.
            Misconfigured: the database does not exist or is not migrated.
        """
        for _ in range(_CONFLICT_RETRIES_MAX):
            try:
                return await self._rows_once(statement, parameters)
            except DBAPIError as error:
                if sqlstate(error) not in _CONFLICTS:
                    raise classify(error) from error
        raise Unavailable("Postgres kept reporting deadlocks or serialization failures")

    async def _rows_once(
        self, statement: TextClause, parameters: Mapping[str, Any] | None
    ) -> list[Row]:
        connection = await self._connect()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await connection.run_sync(_rows, statement, parameters)
        except TimeoutError as error:
            await discard(connection)
            raise OutcomeUnknown(
                f"Postgres did not answer within {self._timeout_seconds} s"
            ) from error
        except DBAPIError:
            # A refused statement leaves a sound connection; a broken one was invalidated.
            await connection.close()
            raise
        except OSError as error:
            await discard(connection)
            raise OutcomeUnknown(f"the connection to Postgres broke: {error}") from error
        except BaseException:
            await discard(connection)
            raise

    async def _connect(self) -> AsyncConnection:
        try:
            async with asyncio.timeout(self._connect_timeout_seconds):
                return await checkout(self.engine)
        except (OSError, TimeoutError, PoolTimeout, DBAPIError) as error:
            if isinstance(error, DBAPIError) and sqlstate(error) == _NO_DATABASE:
                raise classify(error) from error
            reason = str(error).strip() or type(error).__name__
            raise Unavailable(f"cannot reach Postgres: {reason.splitlines()[0]}") from error


def _rows(
    connection: Connection, statement: TextClause, parameters: Mapping[str, Any] | None
) -> list[Row]:
    """Execute and close in one greenlet: each that SQLAlchemy spawns costs 5 % of a statement."""
    rows = all_rows(connection.execute(statement, parameters))
    connection.close()
    return rows


async def checkout(engine: AsyncEngine) -> AsyncConnection:
    """A connection of the pool that is not known to be closed: nothing was sent on it yet."""
    connection = await engine.connect()
    pooled = connection.sync_connection
    raw = pooled.connection.driver_connection if pooled is not None else None
    if raw is not None and raw.is_closed():
        await discard(connection)  # it was closed while it lay in the pool
        connection = await engine.connect()
    return connection


async def discard(connection: AsyncConnection) -> None:
    """Breaks the connection at once: what is on its way must not meet the pool's next user."""
    if not connection.closed and not connection.invalidated:
        raw = await connection.get_raw_connection()
        if raw.driver_connection is not None:
            raw.driver_connection.terminate()  # else SQLAlchemy first tries a polite goodbye
        await connection.invalidate()
    await connection.close()
