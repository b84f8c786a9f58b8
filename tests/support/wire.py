"""A TCP relay in front of a real server, to inject connection faults."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from tcp_server import accepting


class Wire:
    """A relay at ``url`` to the server; ``heal`` undoes every fault."""

    def __init__(self, server_url: str) -> None:
        self._server = urlsplit(server_url)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._replying = asyncio.Event()
        self._replying.set()
        self._refusing = False
        self._lose_reply_to: bytes | None = None
        self._hold_reply_to: bytes | None = None
        self._released = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._swallowing: list[asyncio.Event] = []  # one per connection
        self.url = server_url
        self.reply_lost = asyncio.Event()

    def stall(self) -> None:
        """Delay all bytes in both directions without losing any."""
        self._flowing.clear()

    def hold_replies(self) -> None:
        """Deliver requests, but delay all replies without losing any."""
        self._replying.clear()

    def swallow(self) -> None:
        """Lose all bytes on the connections open now, and never close them; serve new ones."""
        for connection in self._swallowing:
            connection.set()

    def cut(self) -> None:
        """Reset every open connection; accept new ones."""
        for writer in self._writers:
            writer.transport.abort()

    def down(self) -> None:
        """Reset every open connection and refuse new ones."""
        self.refuse()
        self.cut()

    def refuse(self) -> None:
        """Refuse new connections; keep open ones."""
        self._refusing = True

    def heal(self) -> None:
        """Accept connections and deliver bytes again."""
        self._refusing = False
        self._flowing.set()
        self._replying.set()
        self._released.set()

    def hold_reply_to(self, request: bytes) -> None:
        """Delay all replies to the next connection that sends these bytes, without losing any."""
        self._released.clear()
        self._hold_reply_to = request

    def lose_reply_to(self, request: bytes) -> None:
        """Deliver the next request that contains these bytes, and cut before its reply."""
        self.reply_lost.clear()
        self._lose_reply_to = request

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if self._refusing:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(
                self._server.hostname, self._server.port
            )
        except BaseException:
            writer.transport.abort()
            raise
        self._writers.add(far_writer)
        if self._refusing:  # it went down or ended in the meantime; close both here
            writer.transport.abort()
            far_writer.transport.abort()
            return
        doomed, held, lost = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._swallowing.append(lost)
        for pump in (
            self._requests(reader, far_writer, doomed, held, lost),
            self._replies(far_reader, writer, doomed, held, lost),
        ):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def end(self) -> None:
        self.heal()
        self.down()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        doomed: asyncio.Event,
        held: asyncio.Event,
        lost: asyncio.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self._lose_reply_to is not None and self._lose_reply_to in data:
                    self._lose_reply_to = None
                    doomed.set()
                if self._hold_reply_to is not None and self._hold_reply_to in data:
                    self._hold_reply_to = None
                    held.set()
                await self._flowing.wait()
                if lost.is_set():
                    continue
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _replies(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        doomed: asyncio.Event,
        held: asyncio.Event,
        lost: asyncio.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._flowing.wait()
                await self._replying.wait()
                if held.is_set():
                    await self._released.wait()
                if doomed.is_set():
                    writer.transport.abort()
                    self.reply_lost.set()
                    return
                if lost.is_set():
                    continue
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def wire_to(url: str) -> AsyncIterator[Wire]:
    """Run a Wire to the server of ``url`` during the block."""
    wire = Wire(url)
    async with accepting(wire.accept) as port:
        parts = urlsplit(url)
        netloc = parts.netloc.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{port}")
        wire.url = parts._replace(netloc=netloc).geturl()
        try:
            yield wire
        finally:
            await wire.end()
