"""A relay that can forget its connections, as a NAT or a firewall does that restarts.

Toxiproxy cannot: its toxics apply to new connections, too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from chaos.live.toxics import Proxies
from chaos.nemesis.process_faults import Hold, Observed
from holdfast.devstack.host import HOST

_READ_BYTES = 1 << 16


class _Passage:
    """One connection and the one behind it. ``forgotten``: it swallows what arrives."""

    def __init__(self) -> None:
        self.forgotten = False


class Relay:
    """Forwards connections from a port of its own to another one.

    ``opened`` counts its connections, ``swallowed`` the bytes that forgotten ones took.
    """

    def __init__(self, target_port: int) -> None:
        self.opened = 0
        self.swallowed = 0
        self._target_port = target_port
        self._passages: dict[asyncio.Task[None], _Passage] = {}
        self._server: asyncio.Server | None = None

    async def open(self) -> int:
        """Listen; return the port."""
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def forget(self) -> None:
        """Let the open connections swallow everything, their end included; new ones work."""
        for passage in self._passages.values():
            passage.forgotten = True

    async def close(self) -> None:
        """Close the port and all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._passages:
            task.cancel()
        await asyncio.gather(*self._passages, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        passage = _Passage()
        task = asyncio.create_task(self._serve(passage, reader, writer), name="relay")
        self._passages[task] = passage
        task.add_done_callback(self._passages.pop)

    async def _serve(
        self, passage: _Passage, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(HOST, self._target_port)
            with contextlib.closing(far_writer):
                ways = [
                    asyncio.create_task(self._forward(passage, reader, far_writer)),
                    asyncio.create_task(self._forward(passage, far_reader, writer)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                    if passage.forgotten:  # one end is closed, and the other does not learn of it
                        await asyncio.wait(ways)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)

    async def _forward(
        self, passage: _Passage, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                if passage.forgotten:
                    self.swallowed += len(data)
                else:
                    writer.write(data)
                    await writer.drain()


async def drop_silently(relays: Mapping[str, Relay], proxies: Proxies, hold: Hold) -> Observed:
    """Forget the connections of these edges while ``hold`` lasts, and for good.

    Observed if all edges swallowed bytes and opened new connections.
    """
    before = {edge: (relay.swallowed, relay.opened) for edge, relay in relays.items()}
    for relay in relays.values():
        relay.forget()
    await hold()
    left = await proxies.faults(relays)
    evidence = {
        edge: {
            "swallowed": relay.swallowed - before[edge][0],
            "opened": relay.opened - before[edge][1],
            "left": left[edge],
        }
        for edge, relay in relays.items()
    }
    return all(seen["swallowed"] and seen["opened"] for seen in evidence.values()), evidence
