"""The conditions of a topology (``chaos.scenario.conditions``) on real servers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chaos.history.records import Sometimes
from chaos.live.actors import SupervisedProcess
from chaos.live.bystanders import OldTransaction, closed_when_idle, pooled_sessions
from chaos.live.pgbouncer import PgBouncer
from chaos.nemesis.demotable_valkey import DemotableValkey
from chaos.nemesis.late_servers import wait_without_servers
from chaos.observers.conditions import cancellation, default_isolation, redis_users
from chaos.scenario.conditions import (
    POOLED_CONNECTIONS,
    REDIS_IDLE_SECONDS,
    REDIS_RULES,
    REDIS_USER,
    STATEMENT_TIMEOUT_MS,
)
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.servers import EmbeddedPostgres

Evidence = dict[str, Any]
# The URL of Postgres over the edge of a role.
UrlOf = Callable[[str], str]

_DEFAULTS = {
    "serializable": "default_transaction_isolation = 'serializable'",
    "statement_timeout": f"statement_timeout = {STATEMENT_TIMEOUT_MS}",
}
# Lines of Postgres's log about sessions of roles, by what they show.
_LINES = {
    "statement_cancelled": "canceling statement due to statement timeout",
    "serialization_failed": "could not serialize access",
}
_ROLE_LINE = r"^\S+ \S+ \S+ \[\d+\] holdfast\S* ERROR:  {}"


_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, RedisError)


def valkey_lines(environment: Collection[str]) -> list[str]:
    """Return the lines of Valkey's configuration that the conditions need."""
    lines = {
        "redis_acl": f"user {REDIS_USER} {REDIS_RULES}",
        "redis_idle_timeout": f"timeout {REDIS_IDLE_SECONDS}",
    }
    return [line for name, line in lines.items() if name in environment]


class RealConditions:
    """Arranges the conditions of one run and looks at them. ``database``: of the run."""

    def __init__(
        self,
        environment: tuple[str, ...],
        postgres: EmbeddedPostgres,
        valkey: DemotableValkey,
        database: str,
    ) -> None:
        self._environment = environment
        self._postgres = postgres
        self._valkey = valkey
        self._database = database
        self._slow_start: Evidence = {}
        self._pooler: PgBouncer | None = None
        self._old = OldTransaction(postgres.url(database))
        self._log_start = _size(postgres.log_file)

    async def arrange(self, directory: Path, reaper: Reaper) -> None:
        """Configure the servers; must be called before the roles start.

        Raises:
            NoPgBouncer: the environment needs it.
        """
        settings = [_DEFAULTS[name] for name in self._environment if name in _DEFAULTS]
        connection = await asyncpg.connect(self._postgres.url("postgres"))
        try:
            for setting in settings:
                await connection.execute(f'ALTER DATABASE "{self._database}" SET {setting}')
        finally:
            await connection.close()
        if "old_snapshot" in self._environment:
            await self._old.open()
        if "pgbouncer" in self._environment:
            url = self._postgres.url(self._database)
            self._pooler = PgBouncer(directory, url, reaper=reaper, pool=POOLED_CONNECTIONS)
            await asyncio.to_thread(self._pooler.start)

    @property
    def postgres_port(self) -> int:
        """The port to which the roles' edges to Postgres lead."""
        return self._pooler.port if self._pooler else self._postgres.port

    async def close(self) -> None:
        """Stop what stands beside the servers."""
        self._old.close()
        if self._pooler is not None:
            await asyncio.to_thread(self._pooler.stop)

    def redis_url(self, port: int) -> str:
        """Return the URL of Redis for roles; ``port``: of a proxy."""
        restricted = "redis_acl" in self._environment
        return self._valkey.user_url(port) if restricted else self._valkey.url(port=port)

    async def start_roles(self, roles: Collection[SupervisedProcess]) -> None:
        """Start the roles while the servers run, or before them if that is a condition."""
        slow = "slow_start" in self._environment
        servers = (self._postgres, self._valkey) if slow else ()
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in servers))
        for role in roles:
            role.start()
        if slow:
            self._slow_start = await wait_without_servers(roles)
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))

    async def shown(self, postgres_url: str, redis_port: int) -> dict[str, Evidence]:
        """Return what shows each condition; URL and port lead over the edges of a role."""
        looks: Mapping[str, Callable[[], Awaitable[Evidence]]] = {
            "serializable": lambda: default_isolation(postgres_url),
            "statement_timeout": lambda: cancellation(postgres_url),
            "redis_acl": self._redis_users,
            "old_snapshot": self._old.seen,
            "pgbouncer": lambda: pooled_sessions(postgres_url, self._postgres.url(self._database)),
            "redis_idle_timeout": lambda: closed_when_idle(redis_port),
        }
        seen = {name: await _look(looks[name]) for name in looks if name in self._environment}
        return seen | ({"slow_start": self._slow_start} if self._slow_start else {})

    def observations(self) -> list[Sometimes]:
        """Return which errors roles got from Postgres, by its log."""
        with self._postgres.log_file.open("rb") as file:
            file.seek(self._log_start)
            log = file.read().decode(errors="replace")
        found = {
            name: len(re.findall(_ROLE_LINE.format(re.escape(text)), log, re.MULTILINE))
            for name, text in _LINES.items()
        }
        return [
            Sometimes(name=name, held=times > 0, evidence={"times": times})
            for name, times in found.items()
        ]

    async def _redis_users(self) -> Evidence:
        async with Redis.from_url(self._valkey.url()) as redis:
            redis.response_callbacks.clear()  # redis-py would parse the reply
            found: bytes = await redis.execute_command("CLIENT LIST")  # type: ignore[no-untyped-call]
            return redis_users(found.decode())


async def _look(look: Callable[[], Awaitable[Evidence]]) -> Evidence:
    """Return the evidence, or the error: the run then proves nothing, but may be false."""
    try:
        return await look()
    except _ERRORS as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
