"""Look at what only connections show: sessions of Postgres over the edge of a role, and clients."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import asyncpg

from chaos.scenario.conditions import REDIS_USER

_CONNECT_SECONDS = 10.0
_WAIT_SECONDS = 30.0
# Any key: the product takes no advisory locks.
_LOCK = "SELECT pg_advisory_lock(4711)"


async def default_isolation(url: str) -> dict[str, Any]:
    """Return the isolation level of a session that asks for none."""
    connection = await asyncpg.connect(url, timeout=_CONNECT_SECONDS)
    try:
        found = await connection.fetchval("SHOW default_transaction_isolation")
    finally:
        connection.terminate()
    return {"default_transaction_isolation": found}


async def cancellation(url: str) -> dict[str, Any]:
    """Let a statement wait for a lock; return after how many seconds which SQLSTATE ended it."""
    holder = await asyncpg.connect(url, timeout=_CONNECT_SECONDS)
    try:
        await holder.execute(_LOCK)
        waiter = await asyncpg.connect(url, timeout=_CONNECT_SECONDS)
        try:
            return await _wait_in_vain(waiter)
        finally:
            waiter.terminate()
    finally:
        holder.terminate()


def redis_users(client_list: str) -> dict[str, Any]:
    """Count the clients in a reply to CLIENT LIST: as the roles' user, and as any other.

    The harness's own, which watch or ask, do not count.
    """
    clients = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in client_list.splitlines()]
    users = [
        client["user"]
        for client in clients
        if client["cmd"] != "client|list" and "O" not in client["flags"]
    ]
    mine = users.count(REDIS_USER)
    return {"user": mine, "others": len(users) - mine}


async def _wait_in_vain(waiter: asyncpg.Connection[asyncpg.Record]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    began, sqlstate = loop.time(), None
    try:
        await waiter.execute(_LOCK, timeout=_WAIT_SECONDS)
    except asyncpg.PostgresError as error:
        sqlstate = error.sqlstate
    except TimeoutError:
        pass
    return {"sqlstate": sqlstate, "seconds": round(loop.time() - began, 3)}
