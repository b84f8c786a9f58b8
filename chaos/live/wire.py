"""Bytes on the wire, as the kernel counts them: the witness that a network fault was felt.

Toxiproxy counts bytes only when a connection ends. The kernel knows at any moment how much each
socket has sent and received (netlink ``sock_diag``, Linux, no privilege needed). So "commands were
sent and nothing came back" is a measurement on the actor's own sockets, not an assumption.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_DUMP = 0x301
_INET_DIAG_INFO = 2
_ALL_STATES = 0xFFF
_SAMPLE_SECONDS = 0.05
# Offset of tcpi_bytes_acked in struct tcp_info; tcpi_bytes_received follows.
_BYTES_ACKED = 120


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that clients of a port sent and got back, over ``connections`` sockets.

    ``closed``: how many of those sockets were gone at the last look.
    """

    sent: int
    received: int
    connections: int
    closed: int


class Meter:
    """Counts the traffic of clients connected to one local port, from construction on.

    ``ignored``: local ports of clients that do not count, such as the harness's own probes; may
    grow later.
    """

    def __init__(self, port: int, ignored: AbstractSet[int] = frozenset()) -> None:
        self._port = port
        self._ignored = ignored
        self._start = client_bytes(port)
        self._last = dict(self._start)

    def look(self) -> Traffic:
        """Count again. A socket opened and closed between two looks is not seen."""
        now = client_bytes(self._port)
        self._last.update(now)
        counted = self._last.keys() - self._ignored
        sent = received = 0
        for source in counted:
            out, back = self._last[source]
            out_before, back_before = self._start.get(source, (0, 0))
            sent += max(0, out - out_before)
            received += max(0, back - back_before)
        return Traffic(sent, received, len(counted), len(counted - now.keys()))


@contextlib.asynccontextmanager
async def metered(meters: list[Meter]) -> AsyncIterator[None]:
    """Look at all meters every 50 ms inside the block, so that short connections count."""

    async def keep_looking() -> None:
        while True:
            await asyncio.sleep(_SAMPLE_SECONDS)
            for meter in meters:
                meter.look()

    task = asyncio.create_task(keep_looking(), name="meter")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def client_bytes(port: int) -> dict[int, tuple[int, int]]:
    """(sent and acknowledged, received) bytes of each local TCP socket connected to ``port``.

    Keyed by the client's own port. Raises OSError where the kernel has no ``sock_diag``.
    """
    identity = struct.pack("!HH16s16sI", 0, port, b"", b"", 0) + b"\xff" * 8
    kind = (socket.AF_INET, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0, _ALL_STATES)
    request = struct.pack("=BBBBI", *kind) + identity
    header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0)
    found: dict[int, tuple[int, int]] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(2.0)
        netlink.send(header + request)
        while True:
            for kind_of_message, body in _messages(netlink.recv(1 << 18)):
                if kind_of_message == _NLMSG_DONE:
                    return found
                if kind_of_message == _NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", body)[0], "sock_diag refused")
                source, destination = struct.unpack_from("!HH", body, 4)
                info = _tcp_info(body)
                if destination == port and info is not None:
                    # The SYN counts as one acknowledged byte.
                    found[source] = (max(0, info[0] - 1), info[1])


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
