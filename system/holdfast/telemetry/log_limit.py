"""Limit how often a line that others can provoke is logged."""

from __future__ import annotations

import time


class LogLimit:
    """Admits ``lines_max`` lines per ``seconds``, and counts the others."""

    def __init__(self, lines_max: int, seconds: float) -> None:
        self._lines_max = lines_max
        self._seconds = seconds
        self._began = -seconds
        self._admitted = 0
        self._dropped = 0

    def admit(self) -> int | None:
        """Return how many lines were dropped since the last admitted one; None drops this one."""
        now = time.monotonic()
        if now - self._began >= self._seconds:
            self._began = now
            self._admitted = 0
        if self._admitted >= self._lines_max:
            self._dropped += 1
            return None
        self._admitted += 1
        dropped, self._dropped = self._dropped, 0
        return dropped
