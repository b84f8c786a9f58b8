"""The stopwatch for all systems under test: a rate from counts over time."""

from __future__ import annotations

import math

from loadtest.cpu import tree_seconds
from loadtest.processes import LoadtestError

STALL_SECONDS = 60.0
WARM_SHARE = 0.1


class Stopwatch:
    """Starts at a tenth of ``count``, to exclude the start of interpreters from the rate."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._before: tuple[float, int] | None = None
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None
        self._moved: tuple[float, int] | None = None
        self._cpu = (0.0, 0.0)

    def saw(self, at: float, done: int) -> bool:
        """``done`` tasks were done at ``at`` seconds; True when all are.

        Raises:
            LoadtestError: it did not move for a minute.
        """
        if self._moved is None or done != self._moved[1]:
            self._moved = (at, done)
        elif at - self._moved[0] > STALL_SECONDS:
            raise LoadtestError(f"stuck at {done} of {self._count} for {STALL_SECONDS:.0f} s")
        if self._first is None:
            if done < max(1, WARM_SHARE * self._count):
                self._before = (at, done)
                return False
            self._first = (at, done)
            self._cpu = (tree_seconds(), 0.0)
        if done >= self._count:
            self._last = (at, done)
            self._cpu = (self._cpu[0], tree_seconds())
        return self._last is not None

    @property
    def rate(self) -> float:
        """Tasks per second; NaN if all were done at the first look.

        Too few tasks may all be done at the second look: then it is at least that.
        """
        assert self._last is not None  # noqa: S101 - read after the end
        start = self._first if self._first != self._last else self._before
        if start is None:
            return math.nan
        return (self._last[1] - start[1]) / (self._last[0] - start[0])

    @property
    def cpu_ms_per_task(self) -> float:
        """Milliseconds of processor time of all processes below this one; NaN of too few tasks.

        Too few are also those that end within one tick of the kernel's clock (10 ms): the
        difference is then 0, which is no cost and divides nothing.
        """
        assert self._first is not None  # noqa: S101 - read after the end
        assert self._last is not None  # noqa: S101
        tasks = self._last[1] - self._first[1]
        spent = self._cpu[1] - self._cpu[0]
        return spent * 1000 / tasks if tasks and spent > 0 else math.nan
