"""Cache the result of a read for a short time, so that many requests share one read."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, cast

from holdfast.errors import HoldfastError

T = TypeVar("T")


class Cached(Generic[T]):
    """The value that ``read`` returned less than ``seconds`` ago; concurrent callers share a read.

    A HoldfastError is raised to every caller that waited for it, and kept for ``error_seconds``.
    """

    def __init__(
        self, read: Callable[[], Awaitable[T]], seconds: float, *, error_seconds: float = 0.0
    ) -> None:
        self._read = read
        self._seconds = seconds
        self._error_seconds = error_seconds
        self._lock = asyncio.Lock()
        self._value: T | None = None
        self._error: HoldfastError | None = None
        self._read_at = -math.inf

    async def get(self) -> T:
        """Return the value, refreshed if it has expired. Raises what ``read`` raises."""
        asked = asyncio.get_running_loop().time()
        async with self._lock:
            if self._read_at < asked and self._expired():
                await self._refresh()
        if self._error is not None:
            raise type(self._error)(str(self._error)) from self._error
        return cast("T", self._value)

    def _expired(self) -> bool:
        keep = self._seconds if self._error is None else self._error_seconds
        return asyncio.get_running_loop().time() - self._read_at >= keep

    async def _refresh(self) -> None:
        try:
            self._value, self._error = await self._read(), None
        except HoldfastError as error:
            self._error = error
        self._read_at = asyncio.get_running_loop().time()
