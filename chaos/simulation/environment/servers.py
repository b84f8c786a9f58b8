"""Faults of the real servers behind the simulated network, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from chaos.nemesis.process_faults import Hold, Observed
from chaos.simulation.postgres import PostgresNode
from chaos.simulation.valkey import ValkeyNode

# After an outage, clients need a moment to reconnect.
_SOMETHING_SECONDS = 5.0
_LOOK_SECONDS = 0.05


class SimulatedServerFaults:
    """Injects one fault into one server. ``run`` returns whether it was observed, and evidence."""

    def __init__(self, postgres: PostgresNode, valkey: ValkeyNode) -> None:
        self._postgres = postgres
        self._valkey = valkey

    async def run(self, fault: str, target: str, hold: Hold) -> Observed:
        """Inject, ``hold``, undo. Valkey keeps nothing on disk, so it always comes back empty."""
        if fault in {"kill", "restart", "restart_empty"}:
            return await self._end(fault, target, hold)
        if fault == "pause":
            return await self._pause(target, hold)
        wholes = {
            "exhaust": self._exhaust,
            "lock_rows": self._lock_rows,
            "refuse_writes": self._refuse_writes,
            "demote": self._demote,
        }
        if fault in wholes:
            return await wholes[fault](hold)
        what, inject = {
            "terminate_backends": ("backends", self._postgres.terminate_backends),
            "flush": ("keys", self._valkey.flush),
            "client_kill": ("connections", self._valkey.client_kill),
        }[fault]
        return await self._once(what, inject, hold)

    async def _once(self, what: str, inject: Callable[[], int], hold: Hold) -> Observed:
        """Inject as soon as there is a target; observed if any was hit."""
        give_up = asyncio.get_running_loop().time() + _SOMETHING_SECONDS
        while not (hit := inject()) and asyncio.get_running_loop().time() < give_up:
            await asyncio.sleep(_LOOK_SECONDS)
        await hold()
        return hit > 0, {what: hit}

    async def _end(self, fault: str, target: str, hold: Hold) -> Observed:
        """End the real server and start a new one; Postgres recovers from its WAL."""
        server: PostgresNode | ValkeyNode
        server = self._postgres if target == "postgres" else self._valkey
        before = server.pid
        graceful = fault == "restart"
        if isinstance(server, PostgresNode) and not graceful:
            server.crash()
        elif isinstance(server, ValkeyNode) and not graceful:
            server.kill()
        else:
            server.stop()
        gone = server.pid is None
        try:
            if not graceful:
                await hold()
            else:
                await server.node.wait()
        finally:
            server.start()
        return gone and server.pid != before, {"replaced": server.pid != before}

    async def _pause(self, target: str, hold: Hold) -> Observed:
        """Stop scheduling its node; observed if it answered nothing until the pause ended."""
        server = self._postgres if target == "postgres" else self._valkey
        node, loop = server.node, server.loop
        loop.pause(node)
        done = self._postgres.statements_done
        try:
            await hold()
        finally:
            loop.resume(node)
        answered = self._postgres.statements_done - done if target == "postgres" else 0
        return not answered, {"statements_meanwhile": answered}

    async def _refuse_writes(self, hold: Hold) -> Observed:
        """Run out of memory; observed if the server refused a write of any client."""
        before = self._valkey.refused_writes()
        self._valkey.limit_memory(1)
        try:
            await hold()
            refused = self._valkey.refused_writes() - before
        finally:
            self._valkey.limit_memory(0)
        return refused > 0, {"refused": refused}

    async def _demote(self, hold: Hold) -> Observed:
        """Let another server take the address; observed if the old one refused to write."""
        before, old = self._valkey.refused_as_replica(), self._valkey.pid
        self._valkey.demote()
        await hold()
        refused = self._valkey.refused_as_replica() - before
        moved = self._valkey.pid != old
        return refused > 0 and moved, {"readonly": refused, "moved": moved}

    async def _lock_rows(self, hold: Hold) -> Observed:
        """Lock the rows of QUEUED tasks, as soon as there are any; observed if others waited."""
        try:
            found, evidence = await self._once("rows", self._postgres.lock_rows, hold)
        finally:
            waited = self._postgres.unlock_rows()
        return found and waited > 0, evidence | {"waited": waited}

    async def _exhaust(self, hold: Hold) -> Observed:
        """Take every free connection, and each one that becomes free."""
        taken = self._postgres.exhaust()
        try:
            await hold()
        finally:
            given_back = self._postgres.release()
        return taken > 0, {"connections": given_back}
