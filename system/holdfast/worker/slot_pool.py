"""The slots of a worker: bounded concurrency, and exclusive use by one attempt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from holdfast.runtime.supervision import wait_for_event
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.logs import Logger
from holdfast.worker.attempt import RunningAttempt

_RECHECK_SECONDS = 1.0


class SlotPool:
    """Runs coroutines, each of which occupies a slot until it has ended.

    While an attempt has exclusive use no slot is free, so nothing is started beside it. A slot is
    dead once its attempt has been over for ``dead_seconds``, but not the coroutine or thread of its
    handler, which nothing can end: it does not count on it any more.
    """

    def __init__(self, size: int, log: Logger, *, dead_seconds: float) -> None:
        self._size = size
        self._dead_seconds = dead_seconds
        self._log = log
        self._running: dict[asyncio.Task[object], RunningAttempt | None] = {}
        self._over: dict[RunningAttempt, float] = {}  # since when
        self._exclusive: RunningAttempt | None = None
        self._changed = asyncio.Event()

    @property
    def free(self) -> int:
        """Number of coroutines that may be started now."""
        return 0 if self.exclusive else self._size - len(self._running)

    @property
    def exclusive(self) -> bool:
        """Whether a quarantined attempt has exclusive use of this worker."""
        return self._exclusive is not None

    @property
    def idle(self) -> bool:
        """Whether every slot is free, including those of threads that outlived their attempt."""
        return not self._running

    @property
    def stuck(self) -> bool:
        """Whether every running attempt was requested to stop but has not ended."""
        running = self._running.values()
        return bool(running) and all(attempt and attempt.stopping for attempt in running)

    @property
    def dead(self) -> int:
        """Number of slots whose handler does not end although its attempt has ended."""
        latest = time.monotonic() - self._dead_seconds
        return sum(since <= latest for since in self._over.values())

    @property
    def only_dead(self) -> bool:
        """Whether every occupied slot is dead, and at least one is."""
        return 0 < self.dead == len(self._running)

    async def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait up to ``seconds`` until the condition holds; return whether it does.

        The condition is checked when a slot is freed or ``wake`` is called.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not condition():
            self._changed.clear()
            if loop.time() >= deadline:
                return False
            await wait_for_event(self._changed, min(_RECHECK_SECONDS, deadline - loop.time()))
        return True

    def wake(self) -> None:
        """Make ``wait`` check its condition again."""
        self._changed.set()

    def run(self, work: Coroutine[Any, Any, object], attempt: RunningAttempt | None = None) -> None:
        """Run ``work`` in a slot, on behalf of ``attempt`` if given."""
        task = asyncio.create_task(work)
        self._running[task] = attempt
        task.add_done_callback(self._ended)

    def over(self, attempt: RunningAttempt) -> None:
        """Note that the attempt has ended in the database; its handler may still run."""
        self._over.setdefault(attempt, time.monotonic())

    def acquire_exclusive(self, attempt: RunningAttempt) -> None:
        """Give the attempt exclusive use: no slot is free until ``release_exclusive``."""
        self._exclusive = attempt

    def release_exclusive(self, attempt: RunningAttempt) -> None:
        """Free the other slots; no-op for an attempt without exclusive use."""
        if self._exclusive is attempt:
            self._exclusive = None
            self._changed.set()

    async def close(self, seconds: float) -> None:
        """Cancel the running coroutines and wait up to ``seconds`` for them to end."""
        for task in list(self._running):
            task.cancel()
        # Not gather: a handler that ignores its cancellation must not keep the process alive.
        await self.wait(lambda: self.idle, seconds)

    def _ended(self, task: asyncio.Task[object]) -> None:
        attempt = self._running.pop(task)
        if attempt is not None:
            self._over.pop(attempt, None)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()):
            self._log.exception(
                "Attempt ended with an unexpected exception",
                event_name=EventName.ATTEMPT_CRASHED,
                raised=error,
            )
