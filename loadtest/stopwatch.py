"""Compute the rate of a drain from counts over time, alike for all systems under test."""

from __future__ import annotations

import math

from loadtest.process_stats import cpu_seconds_by_part
from loadtest.processes import LoadtestError

STALL_SECONDS = 60.0
WARM_SHARE = 0.1


class Stopwatch:
    """Starts at a tenth of ``count``, to exclude the startup of processes; stops at ``share``."""

    def __init__(self, count: int, share: float = 1.0) -> None:
        self._count = count
        self._stop = share * count
        self._before: tuple[float, int] | None = None
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None
        self._changed: tuple[float, int] | None = None
        self._cpu: tuple[dict[str, float], dict[str, float]] = ({}, {})

    def record(self, at: float, done: int) -> bool:
        """Record that ``done`` tasks were done at ``at`` seconds; return True when enough are.

        Raises:
            LoadtestError: the count did not change for a minute.
        """
        if self._changed is None or done != self._changed[1]:
            self._changed = (at, done)
        elif at - self._changed[0] > STALL_SECONDS:
            raise LoadtestError(f"no progress for {STALL_SECONDS:.0f} s: {done} of {self._count}")
        if self._first is None:
            if done < max(1, WARM_SHARE * self._count):
                self._before = (at, done)
                return False
            self._first = (at, done)
            self._cpu = (cpu_seconds_by_part(), {})
        if done >= self._stop:
            self._last = (at, done)
            self._cpu = (self._cpu[0], cpu_seconds_by_part())
        return self._last is not None

    @property
    def rate(self) -> float:
        """Return tasks per second; NaN if enough were done at the first poll.

        If enough were done at the second poll, it is a lower bound.
        """
        assert self._last is not None  # noqa: S101 - read after the end
        start = self._first if self._first != self._last else self._before
        if start is None:
            return math.nan
        return (self._last[1] - start[1]) / (self._last[0] - start[0])

    @property
    def cpu_ms_per_task(self) -> float:
        """Return the CPU milliseconds per task of all descendants; NaN if too short to measure.

        A drain shorter than one tick of the kernel's clock (10 ms) shows 0, which is no cost.
        """
        spent = sum(self.cpu_ms_by_part.values())
        return spent if spent > 0 else math.nan

    @property
    def cpu_ms_by_part(self) -> dict[str, float]:
        """Return the CPU milliseconds per task of each part (``cpu_seconds_by_part``)."""
        assert self._first is not None  # noqa: S101 - read after the end
        assert self._last is not None  # noqa: S101
        before, after = self._cpu
        tasks = self._last[1] - self._first[1]
        return {
            part: (after[part] - before.get(part, 0.0)) * 1000 / tasks for part in after if tasks
        }
