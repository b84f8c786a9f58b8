"""One end of a simulated connection: the transport a protocol sees, and its socket."""

from __future__ import annotations

import asyncio
import contextvars
import socket
from asyncio import transports
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

from chaos.simulation.kernel.node import Node
from chaos.simulation.network.toxics import ChunkKind

# Capacity of the kernels and the wire before a writer's own buffer fills.
KERNEL_BYTES = 64 * 1024

Address = tuple[str, int]


class Socket:
    """The socket API that clients use. ``fileno()`` is real and may be polled for reading:

    it is never readable while a read would block, and -1 when it would not (or after the close).
    """

    family = socket.AF_INET
    type = socket.SOCK_STREAM
    proto = socket.IPPROTO_TCP

    def __init__(
        self, name: Address, peer: Address | None, fileno: Callable[[], int] = lambda: -1
    ) -> None:
        self._name = name
        self._peer = peer
        self.fileno = fileno

    def getsockname(self) -> Address:
        return self._name

    def getpeername(self) -> Address:
        if self._peer is None:
            raise OSError(107, "Transport endpoint is not connected")
        return self._peer

    def setsockopt(self, *_: object) -> None:
        """Accept the option without effect."""

    def getsockopt(self, *_: object) -> int:
        return 0


class Flow(Protocol):
    """One direction of a connection, as the ends see it (``link.Link``)."""

    sender: End
    in_flight: int
    arrived: int

    @property
    def unread(self) -> bool:
        """Whether bytes wait in the receiver's kernel."""

    @property
    def broken(self) -> bool:
        """Whether a reset waits in the receiver's kernel."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def finish(self, kind: ChunkKind) -> None:
        """Send FIN or RST."""

    def discard(self) -> bool:
        """Drop what is on the wire; return whether bytes were lost."""

    def drain(self) -> None:
        """Deliver what has arrived, as long as the receiver takes it."""


class Listener(Protocol):
    """A listening server, as the ends of its connections see it (``network.Server``)."""

    factory: Callable[[], asyncio.BaseProtocol]

    def is_serving(self) -> bool:
        """Whether it accepts connections."""

    def attach(self, end: End) -> None:
        """Register an accepted connection."""

    def detach(self, end: End) -> None:
        """Unregister a connection that is over."""


class End(transports._FlowControlMixin):  # noqa: SLF001  # asyncio's own back-pressure
    """A transport whose socket is simulated.

    Callbacks of the protocol run in ``context``, a copy of that of the node which owns this end.
    ``mask`` (optional, set by a server that knows): bytes of this connection, in both directions,
    without the parts that differ in every run; the digest of the trace covers only those.
    """

    inbound: Flow
    outbound: Flow

    if TYPE_CHECKING:  # attributes of the base class that its stubs omit
        _protocol_paused: bool

        def _maybe_pause_protocol(self) -> None: ...

        def _maybe_resume_protocol(self) -> None: ...

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        node: Node,
        context: contextvars.Context,
        descriptor: int,
        addresses: tuple[Address, Address],
        server: Listener | None = None,
    ) -> None:
        name, peer = addresses
        extra = {
            "socket": Socket(name, peer, lambda: -1 if self.readable else descriptor),
            "sockname": name,
            "peername": peer,
        }
        super().__init__(extra, loop)
        self.loop = loop
        self.node = node
        self.context = context
        self.mask: Callable[[bytes], bytes] | None = None
        self.closed = False  # the socket is
        self.dead = False  # its process is
        self._server = server
        self._protocol: asyncio.BaseProtocol | None = None
        self._reading = True
        self._eof = False

    # ------------------------------------------------------------- for the network

    @property
    def peer(self) -> Node:
        """The node at the other end."""
        return self.inbound.sender.node

    @property
    def takes(self) -> bool:
        """Whether arriving data is taken at once. A closed socket takes it to refuse it."""
        return self._reading or self.closed

    @property
    def readable(self) -> bool:
        """Whether a read would not block."""
        return self.closed or self.inbound.arrived > 0

    @property
    def throttled(self) -> bool:
        """Whether the protocol was asked to pause writing."""
        return self._protocol_paused

    def accept(self) -> None:
        """Accept the connection on the server's node."""
        if self._server is None or not self._server.is_serving():
            self.break_off()
            return
        protocol = self._server.factory()
        self.set_protocol(protocol)
        self._server.attach(self)
        protocol.connection_made(self)

    def receive(self, data: bytes) -> None:
        """Deliver bytes to the protocol."""
        try:
            if isinstance(self._protocol, asyncio.BufferedProtocol):
                _fill(self._protocol, data)
            else:
                cast("asyncio.Protocol", self._protocol).data_received(data)
        except Exception as error:  # noqa: BLE001  # as asyncio does: the connection is over
            self._fail(error, "data_received() failed")

    def receive_eof(self) -> None:
        """Handle the end of the peer's stream."""
        try:
            keep = cast("asyncio.Protocol", self._protocol).eof_received()
        except Exception as error:  # noqa: BLE001
            self._fail(error, "eof_received() failed")
            return
        if not keep:
            self.close()

    def receive_reset(self) -> None:
        """Handle a reset from the peer's kernel."""
        self._close(ConnectionResetError(104, "Connection reset by peer"))

    def break_off(self) -> None:
        """Close this side and reset the peer."""
        self.closed = True
        self.outbound.finish(ChunkKind.RST)

    def die(self) -> None:
        """Close the socket of a dead process, as its kernel does, without callbacks."""
        self.dead = True
        lost = self.inbound.discard()
        if lost or not self.closed:
            self.closed = True
            self.outbound.finish(ChunkKind.RST if lost else ChunkKind.FIN)

    def resume(self) -> None:
        """Let the protocol write again."""
        if not self.closed:
            self._maybe_resume_protocol()

    # ------------------------------------------------------------- for the protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast("asyncio.BaseProtocol", self._protocol)

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return self._reading and not self.closed

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if self.closed or self._reading:
            return
        self._reading = True
        if self.inbound.arrived:
            self.loop.call_soon(self.inbound.drain, context=self.context)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data must be bytes-like, not {type(data).__name__!r}")
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.closed or not data:
            return
        if self.inbound.broken:  # a reset has arrived but was not read yet
            self.receive_reset()
            return
        self.outbound.write(bytes(data))
        self._maybe_pause_protocol()

    def write_eof(self) -> None:
        if not self.closed and not self._eof:
            self._eof = True
            self.outbound.finish(ChunkKind.FIN)

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return max(0, self.outbound.in_flight - KERNEL_BYTES)

    def close(self) -> None:
        self._close(None)

    def abort(self) -> None:
        self._close(None)

    def __repr__(self) -> str:
        name, peer = self.get_extra_info("sockname"), self.get_extra_info("peername")
        return f"<End {self.node.name} {name}->{peer}{' closed' if self.closed else ''}>"

    # -------------------------------------------------------------------------------

    def _close(self, error: Exception | None) -> None:
        if self.closed:
            return
        self.closed = True
        self.outbound.finish(ChunkKind.RST if self.inbound.unread else ChunkKind.FIN)
        self.loop.call_soon(self._lose, error, context=self.context)

    def _lose(self, error: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        try:
            if protocol is not None:
                protocol.connection_lost(error)
        finally:
            if self._server is not None:
                self._server.detach(self)

    def _fail(self, error: Exception, message: str) -> None:
        self.loop.call_exception_handler(
            {
                "message": f"Fatal error: protocol.{message}",
                "exception": error,
                "transport": self,
                "protocol": self._protocol,
            }
        )
        self._close(error)


def _fill(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    while data:
        buffer = memoryview(protocol.get_buffer(len(data))).cast("B")
        count = min(len(buffer), len(data))
        if count == 0:
            raise RuntimeError("get_buffer() returned an empty buffer")
        buffer[:count] = data[:count]
        protocol.buffer_updated(count)
        data = data[count:]
