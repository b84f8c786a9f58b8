"""The API on real servers: in process for speed, under uvicorn or behind a TCP proxy where the
network matters."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

import httpx
import pytest
from tcp_server import accepting

from holdfast.api.app import create_api
from holdfast.model.claim import Announcement
from holdfast.model.ids import new_id
from holdfast.runtime.health import start_server, stop_server
from holdfast.settings import Settings
from holdfast.store.store import Store

ANNOUNCED = (
    Announcement("echo", None, None),
    Announcement("send_email", 7, 30.0),
)
QUEUES = ("a", "b", "default", "Mail-1", "other", "slow")


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    """A store beside the API's, on a database with a few announced names and queues."""
    store = Store(settings, connections=4, application_name="test")
    await store.register(new_id(), "worker-1", QUEUES, ANNOUNCED)
    yield store
    await store.close()


def quiet(settings: Settings) -> Settings:
    """Settings without a log line per request."""
    return settings.model_copy(update={"log_level": "ERROR"})


@asynccontextmanager
async def client_of(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_api(quiet(settings))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api") as client,
    ):
        yield client


class OpenApi(Protocol):
    """Opens an API with the given settings: ``async with open_api(settings) as client``."""

    def __call__(self, settings: Settings) -> AbstractAsyncContextManager[httpx.AsyncClient]: ...


@pytest.fixture
def open_api() -> OpenApi:
    return client_of


@pytest.fixture
async def api(settings: Settings, store: Store) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API in this process."""
    async with client_of(settings) as client:
        yield client


@pytest.fixture
async def served(settings: Settings, store: Store) -> AsyncIterator[str]:
    """The base URL of an API behind its server."""
    server, serving = await start_server(create_api(quiet(settings)), "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.port}"
    await stop_server(server, serving)


@dataclass
class TcpHop:
    """A TCP proxy that can cut connections or swallow replies."""

    host: str
    port: int
    url: str
    swallow_replies: bool = False
    swallow_after: bytes | None = None  # swallow replies once a request contains this
    refuse: bool = False
    swallowed: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[bytes] = field(default_factory=list)
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _pumps: list[asyncio.Task[None]] = field(default_factory=list)

    def cut(self) -> None:
        """Reset every open connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self.refuse:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(self.host, self.port)
        self._writers.append(far_writer)
        self._pumps += [
            asyncio.create_task(self._pump(reader, far_writer, self._forward)),
            asyncio.create_task(self._pump(far_reader, writer, self._back)),
        ]

    def _forward(self, data: bytes) -> bytes:
        self.requests.append(data)
        if self.swallow_after is not None and self.swallow_after in data:
            self.swallow_replies = True
        return data

    def _back(self, data: bytes) -> bytes:
        if not self.swallow_replies:
            return data
        self.swallowed.set()
        return b""

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        change: Callable[[bytes], bytes],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(change(data))
                await writer.drain()
        writer.close()

    async def end(self) -> None:
        self.cut()
        await asyncio.gather(*self._pumps, return_exceptions=True)


@pytest.fixture
async def hop_to() -> AsyncIterator[Callable[[str], Awaitable[TcpHop]]]:
    """``await hop_to(url)``: a proxy to the server of ``url``; ``hop.url`` leads through it."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(url: str) -> TcpHop:
            parts = urlsplit(url)
            assert parts.hostname is not None
            assert parts.port is not None
            hop = TcpHop(parts.hostname, parts.port, url)
            near = await stack.enter_async_context(accepting(hop.accept))
            stack.push_async_callback(hop.end)
            netloc = parts.netloc.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{near}")
            hop.url = parts._replace(netloc=netloc).geturl()
            return hop

        yield make
