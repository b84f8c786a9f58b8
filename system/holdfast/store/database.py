"""Statements on a bounded pool of autocommit connections, and what the errors of Postgres mean.

One call = one round trip outside any transaction. A call that is cancelled or times out discards
its connection: the statement may still be running on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from asyncpg.exceptions import InvalidCachedStatementError
from sqlalchemy import Connection, TextClause
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import (
    Misconfigured,
    OutcomeUnknown,
    StatementCancelled,
    Unavailable,
    Unstorable,
)
from holdfast.settings import Settings
from holdfast.store import address
from holdfast.store.connections import checkout, create_engine, discard, doubt
from holdfast.store.decoding import Row, all_rows
from holdfast.store.qualified import in_schema

_CONFLICTS = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_CONFLICT_RETRIES_MAX = 10
_UNSTORABLE_CLASSES = frozenset({"22", "23", "54"})
_REFUSED_CLASSES = frozenset({"53"})  # insufficient resources: the statement did not happen
_CANCELLED = "57014"  # by statement_timeout or pg_cancel_backend
# Read only, lock not available, starting up.
_REFUSED = frozenset({"25006", "55P03", "57P03", _CANCELLED})
_UNMIGRATED = frozenset({"42P01", "42703"})  # no such table, no such column
_ADVICE = {
    "3D000": "create it, or correct HOLDFAST_DATABASE_URL",
    "42501": "grant it to the role; `holdfast doctor` tries every statement",
}


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of an error, "" if it has none."""
    original = getattr(error, "orig", None)
    return str(getattr(original, "sqlstate", None) or "")


def reason(error: BaseException) -> str:
    """Return an error of the driver in one line, without its statement and its advice."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.partition("\n")[0] or type(error).__name__


def _was_rolled_back(error: DBAPIError) -> bool:
    """Return whether the same statement may succeed now: nothing was done, and nothing is wrong."""
    if sqlstate(error) in _CONFLICTS:
        return True
    # A table was altered. SQLAlchemy prepares the statement anew.
    return isinstance(getattr(error.orig, "__cause__", None), InvalidCachedStatementError)


def classify(error: DBAPIError) -> Exception:
    """Map a database error to one of ``holdfast.errors``, by what the caller may do next.

    OutcomeUnknown unless the statement was certainly refused.
    """
    code = sqlstate(error)
    message = reason(error)
    if code[:2] in _UNSTORABLE_CLASSES:
        return Unstorable(message)
    if code in _UNMIGRATED:
        return Unmigrated(f"a table or column is missing ({message}): run `holdfast migrate`")
    if code in _ADVICE:
        return Misconfigured(f"{message}: {_ADVICE[code]}")
    if code in _REFUSED or code[:2] in _REFUSED_CLASSES:
        refused = StatementCancelled if code == _CANCELLED else Unavailable
        return refused(f"Postgres refused, nothing was done: {message}")
    if code and code[:2] not in {"08", "57"} and not error.connection_invalidated:
        return error  # a bug in Holdfast: do not wrap it
    return OutcomeUnknown(f"the connection to Postgres broke while waiting for a reply: {message}")


class Unmigrated(Misconfigured):
    """A table or column does not exist."""


class Database:
    """``connections`` autocommit connections under one name in pg_stat_activity."""

    def __init__(self, settings: Settings, *, connections: int, application_name: str) -> None:
        self._schema = settings.database_schema
        self._timeout_seconds = settings.statement_timeout_seconds
        self._connect_timeout_seconds = address.parse(settings).connect_seconds_max
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

        It is resent after a deadlock, a serialization failure or a change of the schema, which
        rolled it back.

        Raises:
            Unavailable: nothing was done.
            OutcomeUnknown: the reply was lost or late.
            Unstorable: Postgres refused a value.
            Misconfigured: the database does not exist, is not migrated, or grants too little.
        """
        qualified = in_schema(statement, self._schema)
        for _ in range(_CONFLICT_RETRIES_MAX):
            try:
                return await self._rows_once(qualified, parameters)
            except DBAPIError as error:
                if not _was_rolled_back(error):
                    raise classify(error) from error
        raise Unavailable("Postgres kept reporting deadlocks or serialization failures")

    async def _rows_once(
        self, statement: TextClause, parameters: Mapping[str, Any] | None
    ) -> list[Row]:
        connection = await self._connect()
        sent_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await connection.run_sync(_rows, statement, parameters)
        except TimeoutError as error:
            doubt(self.engine, sent_at)
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
            if isinstance(error, DBAPIError) and sqlstate(error) in _ADVICE:
                raise classify(error) from error
            why = reason(error)
            if isinstance(error, TimeoutError) and not str(error):
                why = f"no answer within {self._connect_timeout_seconds:g} s"
            raise Unavailable(f"cannot reach Postgres: {why}") from error


def _rows(
    connection: Connection, statement: TextClause, parameters: Mapping[str, Any] | None
) -> list[Row]:
    """Execute and close in one greenlet: each additional one costs 5 % of a statement."""
    rows = all_rows(connection.execute(statement, parameters))
    connection.close()
    return rows
