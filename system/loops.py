"""Supervised loops: a role is a few of them, and is healthy as long as each makes progress."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from observability.event_names import EventName
from observability.logs import Logger
from observability.metrics import Metrics
from system.errors import HoldfastError

_BACKOFF_MIN_SECONDS = 0.1
_BACKOFF_MAX_SECONDS = 2.0

Turn = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Loop:
    name: str
    turn: Turn
    stalled_seconds: float | None
    progressed_at: float | None = None  # None: not started
    failures: int = 0
    last_error: str = ""


@dataclass(slots=True)
class Loops:
    """Runs turns again and again until ``stop``; an error costs a pause, never the loop.

    A turn is one bounded round of work including its own waiting; it ends soon after ``stop``
    if it waits by ``sleep``. Progress is a turn that ended well.
    """

    log: Logger
    metrics: Metrics
    _loops: list[_Loop] = field(default_factory=list)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, name: str, turn: Turn, *, stalled_seconds: float | None) -> None:
        """A loop; without progress for ``stalled_seconds`` the role is not ready (None: it is)."""
        self._loops.append(_Loop(name, turn, stalled_seconds))

    async def run(self) -> None:
        """Returns when ``stop`` was called and every turn ended."""
        now = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for loop in self._loops:
                loop.progressed_at = now
                self.metrics.loop_success.labels(loop.name).set_to_current_time()
                group.create_task(self._supervise(loop), name=loop.name)

    def stop(self) -> None:
        """Ends every loop after its present turn."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopping.is_set()

    async def sleep(self, seconds: float) -> None:
        """Sleeps, but not past ``stop``."""
        await wait_for_event(self._stopping, seconds)

    def stalled(self) -> dict[str, str]:
        """The loops without recent progress, each with what it says; empty means ready."""
        now = asyncio.get_running_loop().time()
        return {loop.name: why for loop in self._loops if (why := _why_stalled(loop, now))}

    async def _supervise(self, loop: _Loop) -> None:
        while not self._stopping.is_set():
            try:
                await loop.turn()
            except asyncio.CancelledError as error:
                if cancelled_from_outside():
                    raise
                self._failed(loop, error)  # something inside was cancelled: an error like others
                self.log.exception(
                    "Loop iteration failed unexpectedly; retrying after a pause",
                    event_name=EventName.LOOP_FAILED,
                    loop=loop.name,
                )
            except HoldfastError as error:
                self._failed(loop, error)
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
                loop.failures = 0
                loop.last_error = ""
                self.metrics.loop_turns.labels(loop.name, "ok").inc()
                self.metrics.loop_success.labels(loop.name).set_to_current_time()
                continue
            await self.sleep(_backoff_seconds(loop.failures))

    def _failed(self, loop: _Loop, error: BaseException) -> None:
        loop.failures += 1
        loop.last_error = str(error) or type(error).__name__
        self.metrics.loop_turns.labels(loop.name, "failed").inc()


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Waits up to ``seconds`` for the event; whether it is set."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


def cancelled_from_outside() -> bool:
    """Whether this very task is to end; else a CancelledError is an error from within."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _why_stalled(loop: _Loop, now: float) -> str:
    if loop.stalled_seconds is None:
        return ""
    if loop.progressed_at is None:
        return "not started"
    seconds = now - loop.progressed_at
    if seconds <= loop.stalled_seconds:
        return ""
    return f"no progress for {seconds:.1f} s: {loop.last_error or 'still in its turn'}"


def _backoff_seconds(failures: int) -> float:
    return float(min(_BACKOFF_MAX_SECONDS, _BACKOFF_MIN_SECONDS * 2 ** min(failures - 1, 10)))
