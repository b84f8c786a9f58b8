"""The simulated network: hosts, listening servers, and the edges between hosts."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
from collections.abc import Callable

from chaos.simulation.kernel.audit import refuse
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.node import Node, current_node
from chaos.simulation.network.link import Edge
from chaos.simulation.network.message import Message, Tap
from chaos.simulation.network.toxics import Chunk, ChunkKind, Toxic
from chaos.simulation.network.transport import Address, End, Socket

__all__ = ["Edge", "Message", "Network", "Server", "Toxic"]

Factory = Callable[[], asyncio.BaseProtocol]

# One way over the wire, in virtual seconds.
LATENCY_SECONDS = (0.0001, 0.001)
_OWN_ADDRESSES = frozenset({"", "0.0.0.0", "127.0.0.1", "localhost"})  # noqa: S104
_FIRST_FREE_PORT = 49152


class Server(asyncio.AbstractServer):
    """The result of ``loop.create_server``. It accepts connections on its node."""

    def __init__(self, network: Network, factory: Factory, address: Address) -> None:
        self.factory = factory
        self.node = current_node()
        self.port = address[1]
        self.context = contextvars.copy_context()
        self._network = network
        self._socket = Socket(address, None)
        self._ends: dict[End, None] = {}
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def sockets(self) -> tuple[Socket, ...]:
        return (self._socket,) if self.is_serving() else ()

    def is_serving(self) -> bool:
        return self._network.listening(self.node.name, self.port) is self

    def close(self) -> None:
        """Stop listening; open connections stay."""
        self._network.forget(self)
        self._wake()

    async def wait_closed(self) -> None:
        """Wait until it is closed and its last connection is gone, as Python documents it."""
        if self.is_serving() or self._ends:
            waiter: asyncio.Future[None] = self.get_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._network.loop

    async def start_serving(self) -> None:
        """Do nothing: it serves from the start."""

    async def serve_forever(self) -> None:
        try:
            await self.get_loop().create_future()
        finally:
            self.close()
            await self.wait_closed()

    def close_clients(self) -> None:
        for end in list(self._ends):
            end.close()

    def abort_clients(self) -> None:
        for end in list(self._ends):
            end.abort()

    def attach(self, end: End) -> None:
        """Register an accepted connection."""
        self._ends[end] = None

    def detach(self, end: End) -> None:
        """Unregister a connection that is over."""
        self._ends.pop(end, None)
        self._wake()

    def _wake(self) -> None:
        if not self._ends and not self.is_serving():
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)


class Network:
    """The network between the nodes of ``loop``, one per run.

    ``tap`` sees every message just before its delivery and may kill nodes. If it returns False, the
    message is lost: TCP cannot continue, so both ends see their connection reset.
    """

    def __init__(self, loop: SimulationLoop) -> None:
        self.loop = loop
        self.tap: Tap | None = None
        self.latency_seconds = LATENCY_SECONDS
        # Timers of proxies and of hosts without a process run as this node.
        self.node = Node(loop, "network", 0, 1)
        self.context = self.node.context
        # The read end of a pipe that is never written to.
        self._descriptors: tuple[int, ...] = os.pipe()
        self._hosts: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._edges: dict[str, Edge] = {}
        self._servers: dict[tuple[str, int], Server] = {}
        self._next_port: dict[str, int] = {}
        loop.network = self
        loop.exited.append(self._exited)

    def close(self) -> None:
        """Release the descriptors after the run."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = ()

    def host(self, name: str) -> str:
        """Return the IP address that all nodes of this name share."""
        if name not in self._hosts:
            number = len(self._hosts) + 1
            self._hosts[name] = address = f"10.0.{number >> 8}.{number & 255}"
            self._names[address] = name
        return self._hosts[name]

    def edge(self, name: str) -> Edge:
        """Return the edge ``client->server`` (names of hosts), created on demand."""
        if name not in self._edges:
            if "" in name.split("->", 1) or "->" not in name:
                raise ValueError(f"no edge {name!r}: it must be 'client->server'")
            self._edges[name] = Edge(self, name)
        return self._edges[name]

    @property
    def edges(self) -> tuple[Edge, ...]:
        return tuple(self._edges.values())

    def heal(self) -> None:
        """Bring all edges up and remove their toxics."""
        for edge in self.edges:
            edge.heal()

    # ------------------------------------------------------------------------------ the loop's

    async def create_connection(
        self, factory: Factory, host: str, port: int
    ) -> tuple[End, asyncio.BaseProtocol]:
        """Connect from the current node, as an event loop does.

        Raises:
            ConnectionRefusedError: the edge is down, or no server listens. (Without a server the
                seed may also accept and immediately end the connection, like a proxy.)
            NotSimulated: the host is not simulated.
        """
        node = current_node()
        name = node.name if host in _OWN_ADDRESSES else self._names.get(host)
        if name is None:
            refuse(f"a connection to {host}:{port}", "only simulated hosts can be reached")
        edge = self.edge(f"{node.name}->{name}")
        await asyncio.sleep(edge.latency(edge.rng))
        server = self.listening(name, port)
        if not edge.enabled or (server is None and edge.rng.random() < 0.5):
            edge.refused += 1
            edge.note("refused")
            raise ConnectionRefusedError(
                errno.ECONNREFUSED, f"Connect call failed ({host!r}, {port})"
            )
        here = (self.host(node.name), self._free_port(node.name))
        client = self._end(node, contextvars.copy_context(), (here, (host, port)))
        there = ((self.host(name), port), here)
        if server is None:
            far = self._end(self.node, self.context, there)
        else:
            far = self._end(server.node, server.context.copy(), there, server)
        connection = edge.connect(client, far)
        if server is None:
            far.die()
        else:
            connection.upstream.wire(Chunk(ChunkKind.SYN, b"", 0.0))
        protocol = factory()
        client.set_protocol(protocol)
        protocol.connection_made(client)
        return client, protocol

    async def create_server(self, factory: Factory, host: str | None, port: int) -> Server:
        """Listen on the current node, as an event loop does; port 0 picks a free one.

        Raises:
            OSError: the port is in use, or the address belongs to another host.
        """
        name = current_node().name
        if (host or "") not in _OWN_ADDRESSES and host != self.host(name):
            raise OSError(errno.EADDRNOTAVAIL, f"{host} is not an address of {name}")
        port = port or self._free_port(name)
        if (name, port) in self._servers:
            raise OSError(errno.EADDRINUSE, f"{name}: port {port} is in use")
        server = Server(self, factory, (host or self.host(name), port))
        self._servers[name, port] = server
        return server

    # ------------------------------------------------------------------------------ for servers

    def listening(self, name: str, port: int) -> Server | None:
        """Return the server that listens there, if any."""
        return self._servers.get((name, port))

    def forget(self, server: Server) -> None:
        """Stop listening."""
        if server.is_serving():
            del self._servers[server.node.name, server.port]

    # -------------------------------------------------------------------------------------------

    def _end(
        self,
        node: Node,
        context: contextvars.Context,
        addresses: tuple[Address, Address],
        server: Server | None = None,
    ) -> End:
        return End(self.loop, node, context, self._descriptors[0], addresses, server)

    def _free_port(self, name: str) -> int:
        port = self._next_port.get(name, _FIRST_FREE_PORT)
        self._next_port[name] = port + 1
        return port

    def _exited(self, node: Node) -> None:
        """Close the sockets of an exited process, as its kernel does."""
        for server in [each for each in self._servers.values() if each.node is node]:
            self.forget(server)
        for edge in self.edges:
            for connection in edge.connections:
                for end in connection.ends:
                    if end.node is node:
                        end.die()
