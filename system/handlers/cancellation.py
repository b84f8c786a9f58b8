"""How an attempt learns that it should stop: seen by coroutines and by threads alike."""

from __future__ import annotations

import asyncio
import threading
from enum import StrEnum


class StopReason(StrEnum):
    """Why an attempt was told to stop."""

    CANCEL_REQUESTED = "cancel requested"
    TIMED_OUT = "timed out"
    LEASE_LOST = "lease lost"
    SHUTTING_DOWN = "shutting down"


class Cancellation:
    """The worker's end of ``ctx.cancelled``: it calls ``request`` on its event loop."""

    def __init__(self) -> None:
        self._seen_by_threads = threading.Event()
        self._seen_by_coroutines = asyncio.Event()
        self.reason: StopReason | None = None

    @property
    def requested(self) -> bool:
        """Whether the attempt was told to stop. Any thread may ask."""
        return self._seen_by_threads.is_set()

    def request(self, reason: StopReason) -> None:
        """Tell the attempt to stop; the first reason stays."""
        if self.reason is None:
            self.reason = reason
        self._seen_by_threads.set()
        self._seen_by_coroutines.set()

    async def wait(self) -> None:
        """Return once a stop was requested."""
        await self._seen_by_coroutines.wait()

    def wait_in_thread(self, seconds: float) -> bool:
        """Block the calling thread up to ``seconds``; whether a stop was requested."""
        return self._seen_by_threads.wait(seconds)
