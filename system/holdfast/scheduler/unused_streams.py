"""Delete the Redis streams of unused queues."""

from __future__ import annotations

from holdfast.queue.hints import HintQueue
from holdfast.runtime.supervision import LoopSupervisor
from holdfast.store.store import Store

_EVERY_SECONDS = 60.0


class UnusedStreams:
    """A loop that deletes streams without hints and readers. It does not affect readiness.

    A stream must be unused twice in a row: its workers may be about to start again.
    """

    def __init__(self, store: Store, queue: HintQueue, loops: LoopSupervisor) -> None:
        self._store = store
        self._queue = queue
        self._loops = loops
        self._unused: frozenset[str] = frozenset()
        loops.add("streams", self._once, stalled_seconds=None)

    async def delete(self) -> list[str]:
        """Delete the streams that are unused now and were at the last call; return their queues."""
        unused = frozenset(await self._queue.unused(await self._store.known_queues()))
        again, self._unused = self._unused & unused, unused
        return [queue for queue in sorted(again) if await self._queue.delete_unused(queue)]

    async def _once(self) -> None:
        await self.delete()
        await self._loops.sleep(_EVERY_SECONDS)
