"""Wait for a condition instead of a fixed time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

DEADLINE_SECONDS = 45.0
"""Time limit of a condition; generous, for busy machines."""


async def until(
    condition: Callable[[], bool | Awaitable[bool]],
    seconds: float = DEADLINE_SECONDS,
    describe: Callable[[], object] | None = None,
) -> None:
    """Wait, in an event loop, until ``condition`` (plain or async) is true.

    ``describe`` returns what is still open; it is called once, after a timeout.

    Raises:
        TimeoutError: the condition was not met within ``seconds``; the message has its source, and
            what ``describe`` returned.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            while True:
                met = condition()
                if met is True or (met is not False and await met):
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        if not limit.expired():
            raise  # the condition's own
        raise TimeoutError(_message(condition, seconds, describe)) from None


async def within(
    awaited: Awaitable[T],
    describe: Callable[[], object],
    seconds: float = DEADLINE_SECONDS,
) -> T:
    """Wait for ``awaited``, which is cancelled after ``seconds``; return its result.

    Raises:
        TimeoutError: it did not end in time; the message has what ``describe`` returned, which was
            called before the cancellation.
    """
    waiting = asyncio.ensure_future(awaited)
    try:
        done, _ = await asyncio.wait([waiting], timeout=seconds)
        if not done:
            raise TimeoutError(f"not done within {seconds:g} s; still open: {describe()}")
        return waiting.result()
    finally:
        waiting.cancel()


def wait_until(
    condition: Callable[[], Any],
    seconds: float = DEADLINE_SECONDS,
    describe: Callable[[], object] | None = None,
) -> Any:
    """Wait, outside an event loop, until ``condition`` returns a true value; return it.

    Raises:
        TimeoutError: the condition was not met within ``seconds``; the message is that of `until`.
    """
    deadline = time.monotonic() + seconds
    while not (met := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(_message(condition, seconds, describe))
        time.sleep(0.02)
    return met


def _message(
    condition: Callable[[], object], seconds: float, describe: Callable[[], object] | None
) -> str:
    still = f"; still open: {describe()}" if describe else ""
    return f"not met within {seconds:g} s: {_source(condition)}{still}"


def _source(condition: Callable[[], object]) -> str:
    """Return the lines of the test that state the condition."""
    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)
