"""The relay forgets open connections without telling anybody; new ones work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from waiting import until

from chaos.live.relay import Relay
from holdfast.devstack.host import HOST, free_port


class Echo:
    """A server that sends back what it receives; ``ended``: how many clients have closed."""

    def __init__(self) -> None:
        self.ended = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        self.ended += 1
        writer.close()


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def relay(echo: Echo) -> AsyncIterator[Relay]:
    server = await asyncio.start_server(echo.serve, HOST, 0)
    relay = Relay(server.sockets[0].getsockname()[1])
    yield relay
    await relay.close()
    server.close()


async def _exchange(port: int, data: bytes) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(data)
    assert await asyncio.wait_for(reader.readexactly(len(data)), 5) == data
    return writer


async def test_end_of_a_connection_is_passed_on(relay: Relay, echo: Echo) -> None:
    writer = await _exchange(await relay.open(), b"hello")
    writer.close()
    await until(lambda: echo.ended == 1)


async def test_forgotten_connection_swallows_everything(relay: Relay, echo: Echo) -> None:
    port = await relay.open()
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    relay.forget()
    writer.write(b"lost")
    await until(lambda: relay.swallowed == 4)
    writer.close()
    (await _exchange(port, b"new")).close()
    await until(lambda: echo.ended == 1)
    assert reader.at_eof() or not await reader.read()
    assert (echo.ended, relay.opened) == (1, 2), "the server did not learn of the first end"


async def test_absent_server_closes_the_connection() -> None:
    relay = Relay(free_port())
    reader, writer = await asyncio.open_connection(HOST, await relay.open())
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await relay.close()
