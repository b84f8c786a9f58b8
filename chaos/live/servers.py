"""Inject faults into the servers themselves: Postgres and Redis (here: Valkey)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

import asyncpg
import redis.asyncio

from chaos.live.actors import process_state
from chaos.nemesis.demotable_valkey import DemotableValkey
from chaos.nemesis.process_faults import Hold, Observed
from chaos.nemesis.row_lock import BEGIN_LOCKING, LOCK_QUEUED
from chaos.observers.database import DatabaseObserver

_FILL_SECONDS = 15.0
_GRAB_SECONDS = 0.01
_GRABBERS = 8
# Clients reconnect first after an outage.
_RECONNECT_SECONDS = 5.0
_LOOK_SECONDS = 0.05


class ServerControl(Protocol):
    """A server that can be stopped and started; ``start`` returns when it answers."""

    @property
    def is_running(self) -> bool:
        """Whether any of its processes exists."""

    @property
    def pid(self) -> int | None:
        """The pid of its first process; None when there is none."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...

    def pause(self) -> Collection[int]:
        """Pause all of its processes; returns their pids."""

    def resume(self) -> None: ...


class PostgresControl(ServerControl, Protocol):
    """Postgres, which has a URL for each database."""

    def url(self, database: str = ..., /) -> str: ...


class RedisControl(ServerControl, Protocol):
    """Redis, which has one URL."""

    def url(self) -> str: ...


class ServerFault:
    """Injects faults into Postgres and Redis."""

    def __init__(
        self, postgres: PostgresControl, valkey: RedisControl, observer: DatabaseObserver
    ) -> None:
        self._servers: dict[str, ServerControl] = {"postgres": postgres, "redis": valkey}
        self._postgres = postgres
        self._valkey = valkey
        self._observer = observer

    async def run(self, fault: str, target: str, hold: Hold) -> Observed:
        """Inject the fault, ``hold``, undo it; return whether it was observed, and the evidence.

        Valkey keeps nothing on disk, so it always starts empty.
        """
        if fault in {"kill", "restart", "restart_empty"}:
            return await self._end(fault, self._servers[target], hold)
        if fault == "pause":
            return await self._pause(self._servers[target], hold)
        wholes = {
            "exhaust": self._exhaust,
            "demote": self._demote,
            "lock_rows": self._lock_rows,
        }
        if fault in wholes:
            return await wholes[fault](hold)
        if fault == "terminate_backends":
            return await self._once("backends", self._observer.terminate_backends, hold)
        async with redis.asyncio.Redis.from_url(self._valkey.url(), socket_timeout=5) as client:
            if fault == "refuse_writes":
                return await self._refuse_writes(client, hold)
            return await self._redis_once(fault, client, hold)

    async def _redis_once(self, fault: str, client: redis.asyncio.Redis, hold: Hold) -> Observed:
        async def flush() -> int:
            keys = int(await client.dbsize())
            if keys:
                await client.flushall()
            return keys

        async def client_kill() -> int:
            command = "CLIENT KILL", "SKIPME", "YES"
            return int(await client.execute_command(*command))  # type: ignore[no-untyped-call]

        if fault == "flush":
            return await self._once("keys", flush, hold)
        return await self._once("connections", client_kill, hold)

    async def _once(self, what: str, inject: Callable[[], Awaitable[int]], hold: Hold) -> Observed:
        """Inject as soon as there is something to hit; observed if anything was hit."""
        give_up = time.monotonic() + _RECONNECT_SECONDS
        while not (hit := await inject()) and time.monotonic() < give_up:
            await asyncio.sleep(_LOOK_SECONDS)
        await hold()
        return hit > 0, {what: hit}

    async def _end(self, fault: str, server: ServerControl, hold: Hold) -> Observed:
        pid = server.pid
        graceful = fault == "restart"
        await asyncio.to_thread(server.stop if graceful else server.kill)
        gone = not server.is_running
        try:
            if not graceful:
                await hold()
        finally:
            await asyncio.to_thread(server.start)
        return gone and server.pid != pid, {"pid": pid, "replaced_by": server.pid}

    async def _pause(self, server: ServerControl, hold: Hold) -> Observed:
        """Observed if all of its processes were still stopped when the pause ended."""
        pids = await asyncio.to_thread(server.pause)
        try:
            await hold()
            stopped = [pid for pid in pids if self.is_stopped(server, pid)]
        finally:
            await asyncio.to_thread(server.resume)
        return len(stopped) == len(pids), {"processes": len(pids), "stopped": len(stopped)}

    def is_stopped(self, server: ServerControl, pid: int) -> bool:
        """Whether the kernel reports that process of a paused server as stopped."""
        return process_state(pid) == "T"

    async def _refuse_writes(self, client: redis.asyncio.Redis, hold: Hold) -> Observed:
        """Run out of memory; observed if the server refused a write of any client."""
        before = await _refused(client)
        await client.config_set("maxmemory", 1)
        try:
            await hold()
            refused = await _refused(client) - before
        finally:
            await client.config_set("maxmemory", 0)
        return refused > 0, {"refused": refused}

    async def _demote(self, hold: Hold) -> Observed:
        """Let another server take the address; observed if the old one refused to write."""
        valkey = self._valkey
        if not isinstance(valkey, DemotableValkey):
            raise TypeError("only a Valkey of the live arena can be demoted (chaos.scenario.fit)")
        before, old = await asyncio.to_thread(valkey.refused_as_replica), valkey.pid
        await asyncio.to_thread(valkey.demote)
        await hold()
        refused = await asyncio.to_thread(valkey.refused_as_replica) - before
        moved = valkey.pid != old
        return refused > 0 and moved, {"readonly": refused, "moved": moved}

    async def _exhaust(self, hold: Hold) -> Observed:
        """Take every free connection; observed if Postgres refused one.

        ``hold`` begins with the first refusal, before which no client is affected.
        """
        url = self._postgres.url("postgres")
        taken: list[asyncpg.Connection[asyncpg.Record]] = []
        refused = asyncio.Event()

        async def grab() -> None:
            while True:
                try:
                    taken.append(await asyncpg.connect(url, timeout=5))
                except asyncpg.TooManyConnectionsError:
                    refused.set()
                    await asyncio.sleep(_GRAB_SECONDS)

        grabbing = asyncio.gather(*(grab() for _ in range(_GRABBERS)))
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(refused.wait(), _FILL_SECONDS)
            await hold()
        finally:
            grabbing.cancel()
            await asyncio.gather(grabbing, return_exceptions=True)
            for connection in taken:
                connection.terminate()
        return refused.is_set(), {"connections": len(taken)}

    async def _lock_rows(self, hold: Hold) -> Observed:
        """Lock the rows of QUEUED tasks, as soon as there are any; observed if others waited."""
        session = await asyncpg.connect(self._observer.url, timeout=5)
        waited: set[int] = set()

        async def lock() -> int:
            return len(await session.fetch(LOCK_QUEUED))

        async def look() -> None:
            waited.update(await self._observer.waiting_for(session.get_server_pid()))

        async def watch() -> None:
            while True:
                await look()
                await asyncio.sleep(_LOOK_SECONDS)

        watching: asyncio.Task[None] | None = None
        try:
            await session.execute(BEGIN_LOCKING)
            watching = asyncio.create_task(watch(), name="lock_rows")
            _, evidence = await self._once("rows", lock, hold)
            await look()
        finally:
            session.terminate()
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        return evidence["rows"] > 0 and bool(waited), evidence | {"waited": len(waited)}


async def _refused(client: redis.asyncio.Redis) -> int:
    """Return how many commands the server refused for want of memory."""
    found = await client.info("errorstats")
    return int(found.get("errorstat_OOM", {}).get("count", 0))
