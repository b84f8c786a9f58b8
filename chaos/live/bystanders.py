"""What else uses the servers of a run, or stands in front of them, as its environment asks.

Each is opened before the roles start, and returns evidence while they run.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import asyncpg

from chaos.scenario.conditions import POOLED_CONNECTIONS
from holdfast.devstack.host import HOST

Evidence = dict[str, Any]

_CONNECT_SECONDS = 10.0
_CLIENTS = POOLED_CONNECTIONS + 3
_CLOSE_SECONDS = 30.0


class OldTransaction:
    """A transaction that stays open, with the snapshot that it took first."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Take the snapshot."""
        self._connection = await asyncpg.connect(self._url, timeout=_CONNECT_SECONDS)
        await self._connection.execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ;"
            " SET LOCAL idle_in_transaction_session_timeout = 0;"
            " SELECT count(*) FROM holdfast.tasks"
        )

    async def seen(self) -> Evidence:
        """Return how many transactions have begun since its snapshot."""
        if self._connection is None:
            return {}
        age = "SELECT age(backend_xmin) FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        return {"transactions": await self._connection.fetchval(age)}

    def close(self) -> None:
        """End the transaction."""
        if self._connection is not None:
            self._connection.terminate()


async def pooled_sessions(through_url: str, direct_url: str) -> Evidence:
    """Count the sessions behind many connections through a pooler, and all of the database."""
    clients = [
        await asyncpg.connect(through_url, timeout=_CONNECT_SECONDS, statement_cache_size=0)
        for _ in range(_CLIENTS)
    ]
    try:
        pids = {await client.fetchval("SELECT pg_backend_pid()") for client in clients}
    finally:
        for client in clients:
            client.terminate()
    direct = await asyncpg.connect(direct_url, timeout=_CONNECT_SECONDS)
    try:
        sessions = await direct.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND application_name <> 'chaos-observer'"
        )
    finally:
        direct.terminate()
    return {"clients": len(clients), "backends": len(pids), "sessions": sessions}


async def closed_when_idle(port: int) -> Evidence:
    """Return after how many seconds a connection to Redis that says nothing is closed."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(HOST, port)
    with contextlib.closing(writer):
        await asyncio.wait_for(reader.read(), _CLOSE_SECONDS)
    return {"seconds": round(time.monotonic() - began, 3)}
