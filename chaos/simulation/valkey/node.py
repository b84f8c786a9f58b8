"""The node "redis" of a simulated run: its connections, waiting reads and faults."""

from __future__ import annotations

import asyncio
import contextvars
import re
import signal
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from chaos.observers.logs import SeenHint
from chaos.scenario.conditions import REDIS_USER
from chaos.simulation.kernel.audit import NotSimulated, refuse
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.node import Node, current_node
from chaos.simulation.network.network import Network
from chaos.simulation.valkey.commands import Command, about, group_of, hint_of, may_wake
from chaos.simulation.valkey.connection import Parked, ValkeyConnection
from chaos.simulation.valkey.server import RealConnection, SharedValkey

NAME = "redis"
PORT = 6379


class ValkeyNode:
    """The node "redis" of one run; it starts with an empty server.

    ``hints``: every hint that reached the server. ``counters``: commands answered, by client and
    command. ``waiting``: the waiting reads, in order of arrival.
    """

    def __init__(self, valkey: SharedValkey, loop: SimulationLoop, network: Network) -> None:
        self.hints: list[SeenHint] = []
        self.counters: Counter[tuple[str, str]] = Counter()
        self.waiting: dict[ValkeyConnection, Parked] = {}
        self.loop = loop
        self._valkey = valkey
        self._network = network
        self._connections: dict[ValkeyConnection, None] = {}
        self._node: Node | None = None
        self._context = contextvars.Context()
        self._milliseconds = 0
        self._restricted = False
        valkey.reset()

    @property
    def pid(self) -> int | None:
        """The pid of the real server while it runs."""
        return self._valkey.pid

    @property
    def node(self) -> Node:
        """Return its current or last node."""
        if self._node is None:
            raise RuntimeError(
                f"{NAME} was not started: call loop.start({NAME!r}, valkey_node.main)"
            )
        return self._node

    def url(self) -> str:
        """Return the URL for clients."""
        user = f"{REDIS_USER}:any@" if self._restricted else ""
        return f"redis://{user}{self._network.host(NAME)}:{PORT}/0"

    async def main(self) -> int:
        """Serve until killed; the main function of the node."""
        self._node = current_node()
        self._context = contextvars.copy_context()
        await self.loop.create_server(lambda: ValkeyConnection(self), "0.0.0.0", PORT)  # noqa: S104
        for_ever: asyncio.Future[int] = self.loop.create_future()
        return await for_ever

    # ------------------------------------------------------------------------- for the harness

    def kill(self) -> None:
        """Kill the real server, cut its connections and stop listening."""
        self._valkey.kill()
        self._end(-signal.SIGKILL)

    def stop(self) -> None:
        """Shut the real server down; its data is lost, as after a kill."""
        self._valkey.stop()
        self._end(0)

    def start(self) -> Node:
        """Start a new, empty server and node after ``kill`` or ``stop``."""
        self._valkey.start()
        return self.loop.start(NAME, self.main)

    def flush(self) -> int:
        """Run FLUSHALL; return the number of deleted keys."""
        keys = int(self._valkey.ask(b"DBSIZE"))
        self._valkey.ask(b"FLUSHALL")
        # Waiting reads are retried on this node.
        self.loop.call_soon(self.done, [[b"FLUSHALL"]], context=self._context)
        return keys

    def limit_memory(self, bytes_max: int) -> None:
        """Set maxmemory; 0: unlimited. A server over its limit refuses writes."""
        self._valkey.ask(b"CONFIG", b"SET", b"maxmemory", b"%d" % bytes_max)

    def refused_writes(self) -> int:
        """Return how many commands the server refused for want of memory."""
        found = re.search(rb"errorstat_OOM:count=(\d+)", self._valkey.ask(b"INFO", b"errorstats"))
        return int(found[1]) if found else 0

    def restrict(self) -> None:
        """Let the clients connect as the user of the roles."""
        self._valkey.restrict()
        self._restricted = True

    def demote(self) -> None:
        """Let a new server take the address; open connections stay with the old one."""
        self._valkey.demote()
        for connection in list(self.waiting):
            self.loop.call_soon(connection.unblock, context=self._context)

    def refused_as_replica(self) -> int:
        """Return how many commands demoted servers refused."""
        return self._valkey.refused_as_replica()

    def client_kill(self) -> int:
        """Kill all client connections; return their number."""
        killed = int(self._valkey.ask(b"CLIENT", b"KILL", b"SKIPME", b"YES"))
        for connection in list(self._connections):
            connection.cut()
        return killed

    async def ask(self, *command: bytes) -> Any:
        """Return the reply to a command of the harness, which does not cross the network."""
        return self._valkey.ask(*command)

    def close(self) -> None:
        """Close the connections to the real server after the run."""
        for connection in list(self._connections):
            connection.forget()

    # ---------------------------------------------------------------------- for connections

    def connect(self, connection: ValkeyConnection) -> RealConnection:
        """Register a connection and open the real one behind it."""
        self._connections[connection] = None
        return self._valkey.connect()

    def disconnect(self, connection: ValkeyConnection) -> None:
        """Unregister a closed connection."""
        self._connections.pop(connection, None)

    def refusal(self, client: str, command: Command) -> str | None:
        """Return the error for a command that is not simulated, and record it in the run."""
        why = self._valkey.commands.refusal(command)
        if why is None:
            return None
        try:
            refuse(f"{about(command)} (sent to Redis by {client})", why)
        except NotSimulated as error:
            return str(error)

    def milliseconds(self) -> int:
        """Return the clock for stream ids; as in Redis, it never goes back."""
        self._milliseconds = max(self._milliseconds, time.time_ns() // 1_000_000)
        return self._milliseconds

    def wakes(self, commands: Sequence[Command]) -> bool:
        """Whether a read waits for a key that one of the commands names."""
        return any(
            may_wake(command, parked.keys)
            for parked in self.waiting.values()
            for command in commands
        )

    def done(self, commands: Sequence[Command]) -> None:
        """Record hints and retry, in order, the reads that wait for the keys of these commands."""
        for hint in filter(None, map(hint_of, commands)):
            self.hints.append(SeenHint(time.time(), *hint))
        # If one consumer of a group found nothing, the others of the group need not retry.
        nothing_for: set[tuple[int, bytes, frozenset[bytes]]] = set()
        for connection, parked in list(self.waiting.items()):
            if not any(may_wake(command, parked.keys) for command in commands):
                continue
            group = group_of(parked.command)
            place = connection.database, group or b"", parked.keys
            if place in nothing_for:
                continue
            if not connection.try_again(parked) and group is not None:
                nothing_for.add(place)

    def saw(self, client: str, command: Command, how: str, raw: bytes = b"") -> None:
        """Trace and count an answered command; ``raw``: the bytes of the reply."""
        self.counters[client, command[0].decode(errors="replace").upper()] += 1
        self.loop.trace.note("redis", client, f"{about(command)} -> {how}", raw)

    def _end(self, code: int) -> None:
        self.close()
        if self.node.alive:
            self.loop.kill(self.node, code)
