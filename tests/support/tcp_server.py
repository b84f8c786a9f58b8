"""Accept TCP connections for the duration of a block, and leave none open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

HOST = "127.0.0.1"
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def accepting(handle: Handle) -> AsyncIterator[int]:
    """Run ``handle`` for every connection; yield the port.

    At the end, the handlers still at work are cancelled and all connections are reset.
    ``asyncio.start_server`` does not allow that: it accepts in tasks of its own, and one that
    the end of the loop cancels before its first step leaves its connection open. A test that ran
    later then failed with the ResourceWarning.
    """
    loop = asyncio.get_running_loop()
    listening = socket.create_server((HOST, 0))
    listening.setblocking(False)
    connections: list[socket.socket] = []
    writers: list[asyncio.StreamWriter] = []
    handlers: list[asyncio.Task[None]] = []

    async def run(connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        writers.append(writer)
        await handle(reader, writer)

    def accept() -> None:
        connection, _ = listening.accept()
        connections.append(connection)
        handlers.append(asyncio.create_task(run(connection)))

    loop.add_reader(listening, accept)
    try:
        yield listening.getsockname()[1]
    finally:
        loop.remove_reader(listening)
        listening.close()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # transports close their sockets in the next turn
        for connection in connections:
            connection.close()
