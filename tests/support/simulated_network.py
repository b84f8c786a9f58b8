"""A simulated network for tests: a server on node "server", recorders at both ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.node import Node, current_node
from chaos.simulation.network.network import Edge, Network
from chaos.simulation.network.transport import End

T = TypeVar("T")
# The longest delivery time, with a margin for processing.
WIRE = 0.0011
PORT = 7


class Recorder(asyncio.Protocol):
    """Records each callback, its time and its node."""

    def __init__(self, *, keep_open: bool = False) -> None:
        self.seen: list[tuple[float, str, bytes]] = []
        self.nodes: set[str] = set()
        self.transport = cast("End", None)
        self.error: Exception | None = None
        self.keep_open = keep_open

    def note(self, what: str, data: bytes = b"") -> None:
        self.nodes.add(current_node().name)
        self.seen.append((asyncio.get_running_loop().time(), what, data))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("End", transport)
        self.note("made")

    def data_received(self, data: bytes) -> None:
        self.note("data", data)

    def eof_received(self) -> bool:
        self.note("eof")
        return self.keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.note("lost")

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    @property
    def data(self) -> bytes:
        return b"".join(data for _, _, data in self.seen)

    @property
    def what(self) -> list[str]:
        return [what for _, what, _ in self.seen]

    def at(self, what: str) -> float:
        """Return when this callback happened first."""
        return next(at for at, each, _ in self.seen if each == what)


class Echo(Recorder):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)


class World:
    """A network with a server on node "server"; tests run on the harness's node."""

    def __init__(self, seed: int = 1, *, keep: bool = False) -> None:
        self.loop = SimulationLoop(seed, keep_trace=keep)
        self.network = Network(self.loop)
        self.accepted: list[Recorder] = []

    def run(self, main: Callable[[], Awaitable[T]]) -> T:
        async def body() -> T:
            return await main()

        try:
            return self.loop.run(body, max_seconds=3600)
        finally:
            self.loop.dispose()
            self.network.close()

    @property
    def edge(self) -> Edge:
        return self.network.edge("harness->server")

    @property
    def now(self) -> float:
        return self.loop.time()

    async def serve(self, kind: type[Recorder] = Recorder, **options: Any) -> Node:
        listening = asyncio.Event()

        def factory() -> Recorder:
            self.accepted.append(kind(**options))
            return self.accepted[-1]

        async def main() -> None:
            server = await self.loop.create_server(factory, "0.0.0.0", PORT)
            listening.set()
            await server.serve_forever()

        node = self.loop.start("server", main)
        await listening.wait()
        return node

    async def connect(self, **options: Any) -> tuple[Recorder, Recorder]:
        """Connect; return the recorders of the client and of the server."""
        count = len(self.accepted)
        address = self.network.host("server")
        _, client = await self.loop.create_connection(lambda: Recorder(**options), address, PORT)
        while len(self.accepted) == count:
            await asyncio.sleep(0.0001)
        return cast("Recorder", client), self.accepted[-1]


async def passes(seconds: float = 0.01) -> None:
    await asyncio.sleep(seconds)
