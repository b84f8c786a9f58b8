"""Wait for a condition instead of a fixed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

DEADLINE_SECONDS = 45.0
"""Time limit of a condition; generous, for busy machines."""


async def until(
    condition: Callable[[], bool | Awaitable[bool]], seconds: float = DEADLINE_SECONDS
) -> None:
    """Wait, in an event loop, until ``condition`` (plain or async) is true.

    Raises:
        TimeoutError: the condition was not met within ``seconds``.
    """
    async with asyncio.timeout(seconds):
        while True:
            met = condition()
            if met is True or (met is not False and await met):
                return
            await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], Any], seconds: float = DEADLINE_SECONDS) -> Any:
    """Wait, outside an event loop, until ``condition`` returns a true value; return it.

    Raises:
        TimeoutError: the condition was not met within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not (met := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the condition was not met within {seconds:.0f} s")
        time.sleep(0.02)
    return met
