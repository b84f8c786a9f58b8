"""A simulated run of Postgres and its clients, each on a separate node."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import asyncpg

from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.node import Node
from chaos.simulation.kernel.trace import Entry
from chaos.simulation.network.network import Network
from chaos.simulation.postgres import ExecutedStatement, PostgresNode, SharedPostgres

Link: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Client: TypeAlias = "Callable[[Link], Coroutine[Any, Any, Any]]"


@dataclass(slots=True)
class Result:
    """The results of a run. ``said``: notes of the clients, in order."""

    said: list[Any] = field(default_factory=list)
    statements: list[ExecutedStatement] = field(default_factory=list)
    digest: str = ""
    entries: list[Entry] = field(default_factory=list)


@dataclass(slots=True)
class World:
    """What a course of a run needs."""

    loop: SimulationLoop
    postgres: PostgresNode
    said: list[Any]

    def client(self, name: str, work: Client) -> Node:
        """Start a node that connects, does ``work`` and ends."""

        async def main() -> None:
            connection = await asyncpg.connect(self.postgres.url())
            await work(connection)
            await connection.close()

        return self.loop.start(name, main)

    async def all(self, *clients: Node) -> None:
        """Wait until all nodes have ended without error."""
        for client in clients:
            code = await client.wait()
            assert code == 0, "\n".join(client.output)

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Link]:
        """Open a connection of the harness."""
        connection = await asyncpg.connect(self.postgres.url())
        yield connection
        await connection.close()

    async def sql(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run a query of the harness."""
        async with self.connected() as connection:
            return await connection.fetch(query, *arguments)


def run(
    postgres: SharedPostgres,
    seed: int,
    course: Callable[[World], Awaitable[None]],
    *,
    held_share: float = 0.0,
) -> Result:
    """Simulate one run; it leaves nothing behind in the real server."""
    loop = SimulationLoop(seed, keep_trace=True)
    network = Network(loop)
    result = Result()
    server = PostgresNode(postgres, loop, network, held_share)
    server.listeners.append(result.statements.append)

    async def main() -> None:
        node = loop.start("postgres", server.main)
        await asyncio.sleep(0.001)
        await course(World(loop, server, result.said))
        assert node.output == []

    try:
        loop.run(main, max_seconds=600)
    finally:
        result.digest = loop.trace.digest
        result.entries = loop.trace.entries
        server.close()
        with warnings.catch_warnings():  # killed nodes could not close their connections
            warnings.simplefilter("ignore", ResourceWarning)
            loop.dispose()
        network.close()
    assert loop.refused == []
    return result
