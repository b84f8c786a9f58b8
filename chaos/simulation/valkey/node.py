"""The node "redis" of a simulated run: who is connected, who waits, and what the harness breaks."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import time
from collections import Counter
from collections.abc import Sequence

from chaos.sightings import SeenHint
from chaos.simulation.kernel.audit import NotSimulated, refuse
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.node import Node, current_node
from chaos.simulation.network.fabric import Network
from chaos.simulation.valkey.commands import Command, about, group_of, hint_of, may_wake
from chaos.simulation.valkey.connection import Parked, ValkeyConnection
from chaos.simulation.valkey.server import RealConnection, SharedValkey

NAME = "redis"
PORT = 6379


class ValkeyNode:
    """The node "redis" of one run; it starts with an empty server.

    ``hints``: every hint that reached the server. ``counters``: commands answered, by client and
    command. ``waiting``: the reads that wait, first come first served.
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
        valkey.reset()

    @property
    def pid(self) -> int | None:
        """The real server's process, while it runs."""
        return self._valkey.pid

    @property
    def node(self) -> Node:
        """Its present or last life."""
        if self._node is None:
            raise RuntimeError(f"{NAME} was not started: loop.start({NAME!r}, valkey_node.main)")
        return self._node

    def url(self) -> str:
        """Where the clients connect."""
        return f"redis://{self._network.host(NAME)}:{PORT}/0"

    async def main(self) -> int:
        """What the node runs, in each of its lives: it serves for ever."""
        self._node = current_node()
        self._context = contextvars.copy_context()
        await self.loop.create_server(lambda: ValkeyConnection(self), "0.0.0.0", PORT)  # noqa: S104
        for_ever: asyncio.Future[int] = self.loop.create_future()
        return await for_ever

    # ------------------------------------------------------------------------- the harness's

    def kill(self) -> None:
        """SIGKILL to the real server: its clients' connections are cut, and nobody listens."""
        self._valkey.kill()
        self._end(-signal.SIGKILL)

    def stop(self) -> None:
        """Ends the real server in good order; it keeps nothing all the same."""
        self._valkey.stop()
        self._end(0)

    def start(self) -> Node:
        """After ``kill`` or ``stop``: a new life, empty."""
        self._valkey.start()
        return self.loop.start(NAME, self.main)

    def flush(self) -> int:
        """FLUSHALL; returns how many keys there were."""
        keys = int(self._valkey.ask(b"DBSIZE"))
        self._valkey.ask(b"FLUSHALL")
        # Those who wait notice on their own node.
        self.loop.call_soon(self.done, [[b"FLUSHALL"]], context=self._context)
        return keys

    def client_kill(self) -> int:
        """CLIENT KILL to everybody; returns how many connections there were."""
        killed = int(self._valkey.ask(b"CLIENT", b"KILL", b"SKIPME", b"YES"))
        for connection in list(self._connections):
            connection.cut()
        return killed

    def close(self) -> None:
        """After the run: gives back what it holds of the real server."""
        for connection in list(self._connections):
            connection.forget()

    # ---------------------------------------------------------------------- for connections

    def connect(self, connection: ValkeyConnection) -> RealConnection:
        """The real connection behind a simulated one."""
        self._connections[connection] = None
        return self._valkey.connect()

    def disconnect(self, connection: ValkeyConnection) -> None:
        """It is closed."""
        self._connections.pop(connection, None)

    def refusal(self, client: str, command: Command) -> str | None:
        """What a client is told that sent what is not simulated; the run remembers it too."""
        why = self._valkey.commands.refusal(command)
        if why is None:
            return None
        try:
            refuse(f"{about(command)} (sent to Redis by {client})", why)
        except NotSimulated as error:
            return str(error)

    def milliseconds(self) -> int:
        """The clock for ids of streams: as Redis' own, it never goes back."""
        self._milliseconds = max(self._milliseconds, time.time_ns() // 1_000_000)
        return self._milliseconds

    def wakes(self, commands: Sequence[Command]) -> bool:
        """Whether somebody waits for a key that one of the commands names."""
        return any(
            may_wake(command, parked.keys)
            for parked in self.waiting.values()
            for command in commands
        )

    def done(self, commands: Sequence[Command]) -> None:
        """They have taken effect, all at once: who waits for their keys tries again, in order."""
        for hint in filter(None, map(hint_of, commands)):
            self.hints.append(SeenHint(time.time(), *hint))
        # Where one of a group found nothing, the next of that group need not look.
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
        """Notes what the server answered; ``raw`` are the bytes."""
        self.counters[client, command[0].decode(errors="replace").upper()] += 1
        self.loop.trace.note("redis", client, f"{about(command)} -> {how}", raw)

    def _end(self, code: int) -> None:
        self.close()
        if self.node.alive:
            self.loop.kill(self.node, code)
