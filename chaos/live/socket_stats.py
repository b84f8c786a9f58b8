"""Count bytes on the wire with the kernel's counters, to observe network faults.

Toxiproxy counts bytes only when a connection ends. The kernel knows at any moment how much each
socket has sent and received (netlink ``sock_diag``, Linux, no privilege needed). So "commands were
sent and nothing came back" is a measurement on the sockets themselves, not an assumption.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

# (sent, received) bytes of each client of a port, keyed by an identifier of its socket.
Sockets = Mapping[str, tuple[int, int]]

# Requests that each server answers immediately, without a login.
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
REQUESTS = {"postgres": _SSL_REQUEST, "redis": b"PING\r\n"}
_HTTP = b"GET /healthz HTTP/1.0\r\n\r\n"

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_DUMP = 0x301
_INET_DIAG_INFO = 2
_TIME_WAIT, _LISTEN = 6, 10
# All but those of sockets that have no peer, or no counters any more.
_STATES = 0xFFF & ~(1 << _TIME_WAIT | 1 << _LISTEN)
_SAMPLE_SECONDS = 0.05
# Offset of tcpi_bytes_acked in struct tcp_info; tcpi_bytes_received follows.
_BYTES_ACKED = 120


@dataclass(frozen=True, slots=True)
class ByteCounts:
    """Bytes that clients of a port sent and received, over ``connections`` sockets.

    ``closed``: how many of those sockets were gone at the last look.
    """

    sent: int
    received: int
    connections: int
    closed: int


class SocketStats(Protocol):
    """Byte counts of the clients of proxies, and probes through those proxies.

    Traffic of the probes themselves is never counted.
    """

    async def sockets(self, ports: Collection[int]) -> Mapping[int, Sockets]:
        """Return the sockets of the clients of each of these ports."""

    async def probe(self, edge: str, port: int) -> float | None:
        """Return the seconds until the edge responded to a probe; None if it closed instead.

        Waits as long as it takes.
        """


class LocalSocketStats:
    """Counts on this machine, whose network the harness shares with proxies and clients."""

    def __init__(self) -> None:
        self._own: set[int] = set()

    async def sockets(self, ports: Collection[int]) -> Mapping[int, Sockets]:
        """Return the clients' sockets, without those of the harness."""
        return {
            port: {str(source): counts[source] for source in counts.keys() - self._own}
            for port, counts in client_bytes(ports).items()
        }

    async def probe(self, edge: str, port: int) -> float | None:
        """Probe the edge (see ``SocketStats``)."""
        return await probe_edge(edge, port, self._own)


class TrafficCounter:
    """Counts the traffic of the clients of one port, beginning with the sockets ``start``."""

    def __init__(self, start: Sockets) -> None:
        self._start = start
        self._last = dict(start)

    def count(self, now: Sockets) -> ByteCounts:
        """Update the counts. Sockets opened and closed between two updates are missed."""
        self._last.update(now)
        sent = received = 0
        for source, (out, back) in self._last.items():
            out_before, back_before = self._start.get(source, (0, 0))
            sent += max(0, out - out_before)
            received += max(0, back - back_before)
        return ByteCounts(sent, received, len(self._last), len(self._last.keys() - now.keys()))


class EdgeTraffic:
    """The traffic of several edges (edge -> port), all read at the same time."""

    def __init__(self, stats: SocketStats, targets: Mapping[str, int]) -> None:
        self._stats = stats
        self._targets = targets
        self._meters: dict[str, TrafficCounter] = {}

    async def count(self) -> dict[str, ByteCounts]:
        """Return the counts; the first call starts them."""
        now = await self._stats.sockets(set(self._targets.values()))
        if not self._meters:
            self._meters = {edge: TrafficCounter(now[port]) for edge, port in self._targets.items()}
        return {edge: meter.count(now[self._targets[edge]]) for edge, meter in self._meters.items()}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Update every 50 ms inside the block, so that short connections are counted."""

        async def keep_counting() -> None:
            while True:
                await asyncio.sleep(_SAMPLE_SECONDS)
                await self.count()

        await self.count()
        task = asyncio.create_task(keep_counting(), name="meters")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def probe_edge(edge: str, port: int, own: set[int]) -> float | None:
    """Return the seconds until the edge responds on loopback; None if it closed instead.

    The local port is added to ``own`` before there is a connection.
    """
    started = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        client.bind(("127.0.0.1", 0))
        own.add(client.getsockname()[1])
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, REQUESTS.get(edge.partition("->")[2], _HTTP))
            answer = await loop.sock_recv(client, 1)
        except OSError:
            return None
    return time.monotonic() - started if answer else None


def client_bytes(ports: Collection[int]) -> dict[int, dict[int, tuple[int, int]]]:
    """Return the (acknowledged, received) bytes of each local TCP socket connected to a port.

    By each of ``ports``, and by the client's own port. Raises OSError where the kernel has no
    ``sock_diag``.
    """
    clients: dict[int, dict[int, tuple[int, int]]] = {port: {} for port in ports}
    for found in _sockets(socket.AF_INET, lambda _, peer_port: peer_port in clients):
        # The SYN counts as one acknowledged byte.
        clients[found.peer_port][found.port] = (max(0, found.acked - 1), found.received)
    return clients


def served_bytes(
    ports: Collection[int], own: Collection[int] = ()
) -> dict[int, dict[str, tuple[int, int]]]:
    """Return the same from the server's side: by each port served here, and by its client's
    address, what the client sent, and what it got and acknowledged.

    ``own``: ports of clients on loopback that do not count.
    """
    served: dict[int, dict[str, tuple[int, int]]] = {port: {} for port in ports}
    for family in (socket.AF_INET, socket.AF_INET6):  # a Go server has IPv6 sockets for both
        for found in _sockets(family, lambda port, peer_port: port in served and peer_port > 0):
            ours = found.peer.is_loopback and found.peer_port in own
            if not ours:
                client = f"{found.peer}:{found.peer_port}"
                served[found.port][client] = (found.received, found.acked)
    return served


@dataclass(frozen=True, slots=True)
class _Socket:
    port: int
    peer: ipaddress.IPv4Address | ipaddress.IPv6Address
    peer_port: int
    acked: int
    received: int


def _sockets(family: socket.AddressFamily, wanted: Callable[[int, int], bool]) -> Iterator[_Socket]:
    """Yield the TCP sockets of this network with the kernel's byte counts.

    ``wanted``: of its own port and its peer's. A run has hundreds of sockets and is measured every
    50 ms, so what the kernel says of the others is not read.
    """
    kind = (family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0, _STATES)
    request = struct.pack("=BBBBI", *kind) + bytes(48)
    header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(2.0)
        netlink.send(header + request)
        while True:
            for kind_of_message, body in _messages(netlink.recv(1 << 18)):
                if kind_of_message == _NLMSG_DONE:
                    return
                if kind_of_message == _NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", body)[0], "sock_diag refused")
                source, destination = struct.unpack_from("!HH", body, 4)
                info = _tcp_info(body) if wanted(source, destination) else None
                if info is not None:
                    yield _Socket(source, _address(family, body[24:40]), destination, *info)


def _address(
    family: socket.AddressFamily, raw: bytes
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if family == socket.AF_INET:
        return ipaddress.IPv4Address(raw[:4])
    address = ipaddress.IPv6Address(raw)
    return address.ipv4_mapped or address


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        yield kind, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _tcp_info(body: bytes) -> tuple[int, int] | None:
    offset = 72  # struct inet_diag_msg; attributes follow
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if kind == _INET_DIAG_INFO and length >= 4 + _BYTES_ACKED + 16:
            acked, received = struct.unpack_from("=QQ", body, offset + 4 + _BYTES_ACKED)
            return int(acked), int(received)
        offset += max(4, (length + 3) & ~3)
    return None
