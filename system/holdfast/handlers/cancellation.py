"""Cooperative cancellation of an attempt, for coroutines and threads."""

from __future__ import annotations

import asyncio
import threading
from enum import StrEnum

_CREATING = threading.Lock()  # between a thread that starts to wait and the loop that wakes it


class StopReason(StrEnum):
    """Why an attempt was requested to stop."""

    CANCEL_REQUESTED = "cancel requested"
    TIMED_OUT = "timed out"
    LEASE_LOST = "lease lost"
    SHUTTING_DOWN = "shutting down"


class Cancellation:
    """The worker's side of ``ctx.cancelled``; it calls ``request`` on its event loop.

    Events are created on the first wait: few handlers wait, and creating both would take a tenth of
    the worker's CPU time per attempt.
    """

    __slots__ = ("_coroutines", "_threads", "reason")

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self._threads: threading.Event | None = None
        self._coroutines: asyncio.Event | None = None

    @property
    def requested(self) -> bool:
        """Whether a stop was requested; may be read from any thread."""
        return self.reason is not None

    def request(self, reason: StopReason) -> None:
        """Request a stop; the first reason is kept."""
        with _CREATING:
            self.reason = self.reason or reason
            if self._threads is not None:
                self._threads.set()
        if self._coroutines is not None:
            self._coroutines.set()

    async def wait(self) -> None:
        """Wait until a stop was requested."""
        if self.reason is None:
            self._coroutines = self._coroutines or asyncio.Event()
            await self._coroutines.wait()

    def wait_in_thread(self, seconds: float) -> bool:
        """Block the calling thread up to ``seconds``; return whether a stop was requested."""
        with _CREATING:
            if self.reason is not None:
                return True
            self._threads = event = self._threads or threading.Event()
        return event.wait(seconds)
