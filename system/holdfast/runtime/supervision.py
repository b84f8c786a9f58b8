"""Supervised loops: a role runs several and is ready while each makes progress."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from holdfast.errors import HoldfastError
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.logs import Logger
from holdfast.telemetry.metrics import Metrics

_BACKOFF_MIN_SECONDS = 0.1
_BACKOFF_MAX_SECONDS = 2.0
_REPEAT_LOG_SECONDS = 30.0

Iteration = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Loop:
    name: str
    iteration: Iteration
    stalled_seconds: float | None
    progressed_at: float | None = None  # None: not started
    succeeded: bool = False
    failures: int = 0
    last_error: str = ""
    logged_error: str = ""
    logged_at: float = -math.inf


@dataclass(slots=True)
class LoopSupervisor:
    """Repeat iterations until ``stop``; an error causes a pause and never ends the loop.

    An iteration is one bounded round of work including its own waiting; it ends soon after ``stop``
    if it waits by ``sleep``. Progress is an iteration that succeeded; a loop that has only failed
    since its start is not ready at once.
    """

    log: Logger
    metrics: Metrics
    _loops: list[_Loop] = field(default_factory=list)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, name: str, iteration: Iteration, *, stalled_seconds: float | None) -> None:
        """Add a loop; without progress for ``stalled_seconds`` the role is not ready.

        None: the loop does not affect readiness.
        """
        self._loops.append(_Loop(name, iteration, stalled_seconds))

    async def run(self) -> None:
        """Run the loops; return when ``stop`` was called and every iteration has ended."""
        now = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for loop in self._loops:
                loop.progressed_at = now
                self.metrics.loop_success.labels(loop.name).set_to_current_time()
                group.create_task(self._supervise(loop), name=loop.name)

    def stop(self) -> None:
        """End every loop after its current iteration."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopping.is_set()

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not past ``stop``."""
        await wait_for_event(self._stopping, seconds)

    def stalled(self) -> dict[str, str]:
        """Return the loops without recent progress, each with the reason; empty means ready."""
        now = asyncio.get_running_loop().time()
        return {loop.name: why for loop in self._loops if (why := _why_stalled(loop, now))}

    async def _supervise(self, loop: _Loop) -> None:
        while not self._stopping.is_set():
            try:
                await loop.iteration()
            except asyncio.CancelledError as error:
                if cancelled_from_outside():
                    raise
                self._failed(loop, error)  # cancelled by the iteration itself: an error
                self.log.exception(
                    "Loop iteration failed unexpectedly; retrying after a pause",
                    event_name=EventName.LOOP_FAILED,
                    loop=loop.name,
                )
            except HoldfastError as error:
                self._failed(loop, error)
                if _is_news(loop):
                    self.log.warning(
                        "Loop iteration failed; retrying after a pause",
                        event_name=EventName.LOOP_FAILED,
                        loop=loop.name,
                        error=error,
                    )
            except Exception as error:
                self._failed(loop, error)
                self.log.exception(
                    "Loop iteration failed unexpectedly; retrying after a pause",
                    event_name=EventName.LOOP_FAILED,
                    loop=loop.name,
                )
            else:
                loop.progressed_at = asyncio.get_running_loop().time()
                loop.succeeded = True
                loop.failures = 0
                loop.last_error = loop.logged_error = ""
                self.metrics.loop_turns.labels(loop.name, "ok").inc()
                self.metrics.loop_success.labels(loop.name).set_to_current_time()
                continue
            await self.sleep(_backoff_seconds(loop.failures))

    def _failed(self, loop: _Loop, error: BaseException) -> None:
        loop.failures += 1
        loop.last_error = str(error) or type(error).__name__
        self.metrics.loop_turns.labels(loop.name, "failed").inc()


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Wait at most ``seconds`` for the event; return whether it is set."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


def cancelled_from_outside() -> bool:
    """Return whether this task is being cancelled; if not, a CancelledError came from inside it."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _is_news(loop: _Loop) -> bool:
    """Return whether to log the last error: the same one is repeated only after a while."""
    now = asyncio.get_running_loop().time()
    if loop.last_error == loop.logged_error and now - loop.logged_at < _REPEAT_LOG_SECONDS:
        return False
    loop.logged_error, loop.logged_at = loop.last_error, now
    return True


def _why_stalled(loop: _Loop, now: float) -> str:
    if loop.stalled_seconds is None:
        return ""
    if loop.progressed_at is None:
        return "not started"
    if loop.last_error and not loop.succeeded:
        return f"no success since the start: {loop.last_error}"
    seconds = now - loop.progressed_at
    if seconds <= loop.stalled_seconds:
        return ""
    return f"no progress for {seconds:.1f} s: {loop.last_error or 'iteration still running'}"


def _backoff_seconds(failures: int) -> float:
    return float(min(_BACKOFF_MAX_SECONDS, _BACKOFF_MIN_SECONDS * 2 ** min(failures - 1, 10)))
