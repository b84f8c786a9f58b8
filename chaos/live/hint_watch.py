"""Observe every hint that reaches Redis, with the server's own clock."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chaos.observers.logs import SeenHint

_HINT = re.compile(r"^XADD \S*:hints:\S+ .*?\bid ([0-9a-f-]{36}) epoch (\d+)", re.IGNORECASE)
_CANCEL_AGAIN_SECONDS = 1.0


class HintWatch:
    """Records every hint that arrives at the server (MONITOR on its own connection)."""

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self.hints: list[SeenHint] = []

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch inside the block; reconnect to a server that was restarted."""
        task = asyncio.create_task(self._watch(), name="hint watch")
        try:
            yield
        finally:
            # redis-py sometimes swallows a cancellation between two reads.
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=_CANCEL_AGAIN_SECONDS)
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(RedisError, OSError):
                async with Redis.from_url(self._url) as redis, redis.monitor() as monitor:
                    async for entry in monitor.listen():
                        self._record(entry["time"], entry["command"])
            await asyncio.sleep(0.1)

    def _record(self, at: float, command: str) -> None:
        if found := _HINT.match(command):
            self.hints.append(SeenHint(at, found[1], int(found[2])))
