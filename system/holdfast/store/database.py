"""A bounded pool of autocommit connections, and the classification of Postgres errors.

One call = one round trip outside any transaction. A call that is cancelled or times out discards
its connection: the statement may still be running on it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import AsyncAdaptedQueuePool, Connection, TextClause, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from holdfast.errors import Misconfigured, OutcomeUnknown, Unavailable, Unstorable
from holdfast.settings import Settings
from holdfast.store.decoding import Row, all_rows

_CONFLICTS = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_CONFLICT_RETRIES_MAX = 10
_UNSTORABLE_CLASSES = frozenset({"22", "23", "54"})
_REFUSED_CLASSES = frozenset({"53"})  # insufficient resources: the statement did not happen
_REFUSED = frozenset({"25006", "55P03", "57P03"})  # read only, lock not available, starting up
_UNMIGRATED = frozenset({"42P01", "42703"})  # no such table, no such column
_NO_DATABASE = "3D000"

# asyncpg has codecs for all built-in types except their arrays, which it looks up in the catalogue
# on each new connection: four round trips and 5 ms of server CPU, for all connections at the same
# time after an outage; the lookup also leaves ``jit`` off in the session. These are the rows that
# the query would return; the OIDs are the same in every Postgres.
_ARRAY_TYPES = tuple(
    {
        "oid": oid, "ns": "pg_catalog", "name": f"_{element}", "kind": b"b", "basetype": None,
        "elemtype": element_oid, "elemdelim": ",", "range_subtype": None, "attrtypoids": None,
        "attrnames": None,
    }
    for oid, element, element_oid in (
        (1001, "bytea", 17), (1007, "int4", 23), (1022, "float8", 701),
        (1185, "timestamptz", 1184), (2951, "uuid", 2950),
    )
)  # fmt: skip


def create_engine(
    settings: Settings, *, connections: int, application_name: str, autocommit: bool
) -> AsyncEngine:
    """Create an engine with at most ``connections`` connections, opened on demand.

    Sessions are never configured with SET, which PgBouncer would not preserve: configure
    server-side timeouts on the role or the database.
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
    event.listen(engine.sync_engine, "connect", _register_arrays)
    return engine


def _register_arrays(connection: Any, _: object = None) -> None:
    """Register the array types with a new asyncpg connection (as SQLAlchemy adapts it)."""
    # Not a public API: an asyncpg without this attribute queries the catalogue.
    with contextlib.suppress(AttributeError):
        protocol = connection.driver_connection._protocol  # noqa: SLF001
        protocol.get_settings().register_data_types(_ARRAY_TYPES)


def connections_used(engine: AsyncEngine) -> int:
    """Return the number of pooled connections in use."""
    pool = engine.pool
    return pool.checkedout() if isinstance(pool, AsyncAdaptedQueuePool) else 0


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of an error, "" if it has none."""
    original = getattr(error, "orig", None)
    return str(getattr(original, "sqlstate", None) or "")


def classify(error: DBAPIError) -> Exception:
    """Map a database error to one of ``holdfast.errors``, by what the caller may do next.

    OutcomeUnknown unless the statement was certainly refused.
    """
    code = sqlstate(error)
    message = str(error.orig).strip()
    if code[:2] in _UNSTORABLE_CLASSES:
        return Unstorable(message)
    if code in _UNMIGRATED:
        return Unmigrated(f"a table or column is missing ({message}): run `holdfast migrate`")
    if code == _NO_DATABASE:
        return Misconfigured(f"{message}: create it, or correct HOLDFAST_DATABASE_URL")
    if code in _REFUSED or code[:2] in _REFUSED_CLASSES:
        return Unavailable(f"Postgres refused: {message}")
    if code and code[:2] not in {"08", "57"} and not error.connection_invalidated:
        return error  # a bug in Holdfast: do not wrap it
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
        """Close every connection."""
        await self.engine.dispose()

    async def rows(
        self, statement: TextClause, parameters: Mapping[str, Any] | None = None
    ) -> list[Row]:
        """Run one statement and return all its rows.

        It is resent after a deadlock or serialization failure, which rolled it back.

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
            # The connection survives a refused statement; SQLAlchemy invalidates broken ones.
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
    """Execute and close in one greenlet: each additional one costs 5 % of a statement."""
    rows = all_rows(connection.execute(statement, parameters))
    connection.close()
    return rows


async def checkout(engine: AsyncEngine) -> AsyncConnection:
    """Check out a pooled connection that is still open."""
    connection = await engine.connect()
    pooled = connection.sync_connection
    raw = pooled.connection.driver_connection if pooled is not None else None
    if raw is not None and raw.is_closed():
        await discard(connection)  # closed while it was in the pool
        connection = await engine.connect()
    return connection


async def discard(connection: AsyncConnection) -> None:
    """Terminate the connection: its pending reply must not reach the next user of the pool."""
    if not connection.closed and not connection.invalidated:
        raw = await connection.get_raw_connection()
        if raw.driver_connection is not None:
            raw.driver_connection.terminate()  # SQLAlchemy would try a graceful close
        await connection.invalidate()
    await connection.close()
