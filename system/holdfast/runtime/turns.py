"""Share an event loop fairly between coroutines whose work holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

TURN_BYTES = 1 << 16

Done = TypeVar("Done")


class Turns:
    """Runs one piece of work at a time, and lets the loop turn after every 64 KiB of it.

    A thread would not free the loop: parsers and encoders hold the interpreter lock.

    A caller that decodes its input before other work on it holds ``expanding`` while it decodes. At
    most one decode then waits for a turn, and the work on decoded inputs gets turns in between:
    otherwise all inputs would be decoded, and in memory, before the first is finished.
    """

    def __init__(self) -> None:
        self.expanding = asyncio.Lock()
        self._lock = asyncio.Lock()
        self._bytes = 0

    async def run(
        self, work: Callable[[], Done], size: int | Callable[[Done], int] = TURN_BYTES
    ) -> Done:
        """Return what ``work`` returns; ``size`` is that of its input or output in bytes."""
        async with self._lock:
            spent = TURN_BYTES
            try:
                done = work()
                spent = size if isinstance(size, int) else size(done)
            finally:
                self._bytes += spent
                if self._bytes >= TURN_BYTES:
                    self._bytes = 0
                    await asyncio.sleep(0)
            return done
