"""Observe the database through a connection of the harness that bypasses all proxies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import asyncpg

from chaos.history.records import (
    Effect,
    Event,
    InFlight,
    Record,
    SqlEffect,
    StaleWrite,
    TaskRow,
    Worker,
)
from chaos.scenario.faults import After
from chaos.scenario.vocabulary import EVENTS

TIMEOUT_SECONDS = 60.0
_SHORT_TIMEOUT_SECONDS = 0.3
_RETRY_SECONDS = 0.1
# Postgres is down, starting, stopping, or full.
_UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
)
# Whatever the database's defaults are (``topology.environment``).
_SESSION = {
    "application_name": "chaos-observer",
    "default_transaction_isolation": "read committed",
    "statement_timeout": "0",
}
# asyncpg returns the values of these columns as text.
_JSONB = frozenset({"payload", "result", "detail", "seen"})
_TERMINAL = "('SUCCEEDED', 'FAILED', 'CANCELLED')"


@dataclass(frozen=True, slots=True)
class Counts:
    """The progress of a run: tasks by state, and stale writes that the fence refused."""

    terminal: int
    open: int
    running: int
    stale_writes: int


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One registration of a worker process; ``started`` is Unix time.

    ``dead_reason`` is None unless it was marked dead.
    """

    worker_id: str
    started: float
    dead_reason: str | None


class DatabaseUnavailable(Exception):
    """Postgres did not respond to the harness."""


class DatabaseObserver:
    """Reads through one direct connection, which is reopened after a restart of Postgres.

    While Postgres is down or has no free connection, every method retries for at most a minute;
    then it raises DatabaseUnavailable.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._last = Counts(0, 0, 0, 0)
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            with contextlib.suppress(*_UNAVAILABLE):
                await self._connection.close(timeout=5)
            self._connection = None

    async def clock(self) -> datetime:
        """Return the database's clock."""
        (row,) = await self._fetch("SELECT clock_timestamp() AS now")
        now: datetime = row["now"]
        return now

    async def counts(self, timeout_seconds: float = TIMEOUT_SECONDS) -> Counts:
        """Count all tasks."""
        (row,) = await self._fetch(
            f"SELECT count(*) FILTER (WHERE state IN {_TERMINAL}) AS terminal,"  # noqa: S608
            f" count(*) FILTER (WHERE state NOT IN {_TERMINAL}) AS open,"
            " count(*) FILTER (WHERE state = 'RUNNING') AS running,"
            " (SELECT count(*) FROM holdfast.stale_writes) AS stale_writes FROM holdfast.tasks",
            timeout_seconds=timeout_seconds,
        )
        self._last = Counts(**dict(row))
        return self._last

    async def in_flight(self) -> InFlight:
        """Count open and running tasks; while Postgres is down, return the last known counts."""
        try:
            counts = await self.counts(_SHORT_TIMEOUT_SECONDS)
        except DatabaseUnavailable:
            counts = self._last
        return InFlight(open=counts.open, running=counts.running)

    async def count(self, event: After) -> int:
        """Count how often the event that a fault waits for has happened so far."""
        rows = await self._fetch(
            "SELECT coalesce(w.label, split_part(e.actor, ':', 2)) AS label, count(*) AS n"
            " FROM holdfast.task_events e"
            " LEFT JOIN holdfast.workers w ON e.actor = 'worker:' || w.id"
            " WHERE e.reason = $1 GROUP BY 1",
            EVENTS[event.event].value,
        )
        pattern = event.actor or "*"
        return sum(int(row["n"]) for row in rows if fnmatchcase(row["label"], pattern))

    async def running(self, label: str) -> int:
        """Count the running tasks of this actor; raises DatabaseUnavailable after a short wait."""
        (row,) = await self._fetch(
            "SELECT count(*) AS n FROM holdfast.tasks t"
            " JOIN holdfast.workers w ON t.worker_id = w.id"
            " WHERE t.state = 'RUNNING' AND w.label = $1",
            label,
            timeout_seconds=_SHORT_TIMEOUT_SECONDS,
        )
        return int(row["n"])

    async def incarnations(self, label: str) -> list[Incarnation]:
        """Return all incarnations of a worker, oldest first."""
        rows = await self._fetch(
            "SELECT id, extract(epoch FROM started_at)::float8 AS started, dead_reason"
            " FROM holdfast.workers"
            " WHERE label = $1 ORDER BY started_at",
            label,
        )
        return [Incarnation(str(row["id"]), row["started"], row["dead_reason"]) for row in rows]

    async def terminate_backends(self) -> int:
        """Terminate all other connections to this database; return their number."""
        (row,) = await self._fetch(
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) AS n FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
        return int(row["n"])

    async def waiting_for(self, pid: int) -> list[int]:
        """Return the backends that wait for a lock of the backend ``pid``."""
        rows = await self._fetch(
            "SELECT pid FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))", pid
        )
        return [int(row["pid"]) for row in rows]

    async def tasks(self) -> list[dict[str, str]]:
        """Return id, name, queue, created_at and run_at of all tasks, oldest first."""
        rows = await self._fetch(
            "SELECT id, name, queue, created_at, run_at"
            " FROM holdfast.tasks JOIN holdfast.requests USING (id) ORDER BY id"
        )
        return [{name: str(value) for name, value in _plain(row).items()} for row in rows]

    async def final_records(self) -> list[Record]:
        """Return everything that the verdict needs, table by table."""
        found: list[Record] = []
        for row in await self._fetch(
            "SELECT * FROM holdfast.tasks LEFT JOIN holdfast.requests USING (id) ORDER BY id"
        ):
            values = _plain(row)
            values["key"] = values["idempotency_key"]
            values["task_id"] = values["id"]
            found.append(_make(TaskRow, values))
        for table, kind, order in (
            ("holdfast.task_events", Event, "task_id, seq"),
            ("holdfast.effects", Effect, "effect_key"),
            ("holdfast.stale_writes", StaleWrite, "id"),
            ("chaos_effects", SqlEffect, "at"),
        ):
            rows = await self._fetch(f"SELECT * FROM {table} ORDER BY {order}")  # noqa: S608
            found += [_make(kind, _plain(row)) for row in rows]
        for row in await self._fetch("SELECT * FROM holdfast.workers ORDER BY started_at"):
            values = _plain(row)
            found.append(_make(Worker, values | {"worker_id": values["id"]}))
        return found

    async def _fetch(
        self, query: str, *arguments: object, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[asyncpg.Record]:
        give_up = time.monotonic() + timeout_seconds
        while True:
            try:
                async with self._lock:
                    return await self._fetch_once(query, *arguments)
            except _UNAVAILABLE as error:
                if time.monotonic() > give_up:
                    raise DatabaseUnavailable(f"Postgres does not respond: {error!r}") from error
            await asyncio.sleep(_RETRY_SECONDS)

    async def _fetch_once(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self.url, timeout=5, server_settings=_SESSION)
        try:
            return await self._connection.fetch(query, *arguments, timeout=5)
        except BaseException:
            # Also after a cancellation, which may leave an unfinished query on the connection.
            self._connection.terminate()
            self._connection = None
            raise


def _make(kind: type[Any], values: dict[str, Any]) -> Any:
    """Create a record from the values that match its fields."""
    return kind(**{name: values[name] for name in kind.__dataclass_fields__ if name in values})


def _plain(row: asyncpg.Record) -> dict[str, Any]:
    values = {name: _json(value) for name, value in row.items()}
    for name in _JSONB & values.keys():
        values[name] = None if row[name] is None else json.loads(row[name])
    return values


def _json(value: Any) -> Any:
    if isinstance(value, datetime):
        return instant(value)
    return str(value) if isinstance(value, asyncpg.pgproto.pgproto.UUID) else value


def instant(moment: datetime) -> str:
    """Format an instant as in histories: ISO 8601, UTC, with Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
