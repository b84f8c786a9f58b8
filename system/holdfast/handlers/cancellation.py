"""How an attempt learns that it should stop: seen by coroutines and by threads alike."""

from __future__ import annotations

import asyncio
import threading
from enum import StrEnum

_MAKING = threading.Lock()  # between a thread that starts to wait and the loop that wakes it


class StopReason(StrEnum):
    """Why an attempt was told to stop."""

    CANCEL_REQUESTED = "cancel requested"
    TIMED_OUT = "timed out"
    LEASE_LOST = "lease lost"
    SHUTTING_DOWN = "shutting down"


class Cancellation:
    """The worker's end of ``ctx.cancelled``: it calls ``request`` on its event loop.

    Events are created on the first wait: few handlers wait, and creating them is a tenth of what an
    attempt costs its worker.
    """

    __slots__ = ("_coroutines", "_threads", "reason")

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self._threads: threading.Event | None = None
        self._coroutines: asyncio.Event | None = None

    @property
    def requested(self) -> bool:
        """Whether the attempt was told to stop. Any thread may ask."""
        return self.reason is not None

    def request(self, reason: StopReason) -> None:
        """Tell the attempt to stop; the first reason stays."""
        with _MAKING:
            self.reason = self.reason or reason
            if self._threads is not None:
                self._threads.set()
        if self._coroutines is not None:
            self._coroutines.set()

    async def wait(self) -> None:
        """Return once a stop was requested."""
        if self.reason is None:
            self._coroutines = self._coroutines or asyncio.Event()
            await self._coroutines.wait()

    def wait_in_thread(self, seconds: float) -> bool:
        """Block the calling thread up to ``seconds``; whether a stop was requested."""
        with _MAKING:
            if self.reason is not None:
                return True
            self._threads = event = self._threads or threading.Event()
        return event.wait(seconds)
