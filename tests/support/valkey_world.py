"""A simulated Redis for tests: a loop, a network, the node and its clients."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.node import Node
from chaos.simulation.network.network import Network
from chaos.simulation.valkey import SharedValkey, ValkeyNode
from holdfast.model.dispatch import Hint
from holdfast.queue.hints import HintQueue
from holdfast.settings import Settings

T = TypeVar("T")
# Virtual seconds: enough for several round trips.
SOON = 0.02


def hint(number: int, epoch: int = 0) -> Hint:
    return Hint(UUID(int=number), epoch, "default", None)


@dataclass
class World:
    """A loop, a network and the node "redis"; ``run`` runs the harness to its end."""

    server: SharedValkey
    seed: int = 1
    loop: SimulationLoop = field(init=False)
    network: Network = field(init=False)
    redis: ValkeyNode = field(init=False)
    clients: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop = SimulationLoop(self.seed, keep_trace=True)
        self.network = Network(self.loop)
        self.redis = ValkeyNode(self.server, self.loop, self.network)

    def run(self, harness: Callable[[], Awaitable[T]]) -> T:
        async def main() -> T:
            self.loop.start("redis", self.redis.main)
            await asyncio.sleep(0.001)
            return await harness()

        gc.disable()  # as in every simulated run
        try:
            return self.loop.run(main, max_seconds=1000)
        finally:
            gc.enable()

    def start(self, name: str, main: Callable[[], Awaitable[Any]]) -> asyncio.Future[Any]:
        """Run ``main`` on a new node; the future holds its result or exception."""
        outcome: asyncio.Future[Any] = self.loop.create_future()

        async def node() -> int:
            try:
                outcome.set_result(await main())
            except Exception as error:  # noqa: BLE001
                outcome.set_exception(error)
            return 0

        self.clients.append(self.loop.start(name, node))
        return outcome

    def close(self) -> None:
        self.redis.close()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # killed nodes close nothing, and garbage collection warns
            self.loop.dispose()
            self.network.close()
            del self.loop, self.network, self.redis
            self.clients.clear()
            gc.collect()

    def client(self, **options: Any) -> Any:  # redis-py's types cover the replies of both protocols
        options = {"protocol": 2, "socket_timeout": None, "retry": Retry(NoBackoff(), 0)} | options
        return Redis.from_url(self.redis.url(), **options)

    @contextlib.asynccontextmanager
    async def queue(self) -> AsyncIterator[HintQueue]:
        database = "postgresql://nobody@localhost/nothing"
        settings = Settings(database_url=database, redis_url=self.redis.url())
        queue = HintQueue(settings, connections=4)
        try:
            yield queue
        finally:
            await queue.close()
