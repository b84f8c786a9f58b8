"""What a handler raises to say how its attempt shall end."""

from __future__ import annotations

import math
from datetime import timedelta


class Retry(Exception):
    """End this attempt as failed, and choose when the next one may start.

    It counts like any failure: at ``max_attempts`` the task is FAILED. ``after`` in seconds or as
    a timedelta, None leaves the delay to the handler's backoff.

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
    """End the task as FAILED at once: no further attempt could help. ``reason`` is for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
