"""Exceptions by which a handler chooses how its attempt ends."""

from __future__ import annotations

import math
from datetime import timedelta


class Retry(Exception):
    """End this attempt as failed and choose when the next one may start.

    It counts as a failure: after ``max_attempts`` of them the task is FAILED. ``after`` is in
    seconds or a timedelta; None means the delay of the handler's backoff.

    Raises:
        ValueError: ``after`` is negative or not finite.
    """

    def __init__(self, after: float | timedelta | None = None, reason: str = "") -> None:
        seconds = after.total_seconds() if isinstance(after, timedelta) else after
        if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"Retry(after=...) takes seconds >= 0 or None, not {after!r}")
        super().__init__(reason or "the handler asked for a retry")
        self.after_seconds = seconds


class Discard(Exception):
    """End the task as FAILED without further attempts. ``reason`` is for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
