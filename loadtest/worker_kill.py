"""Drain while one worker process is killed and started again, until its tasks are done, too."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from loadtest.processes import LoadtestError
from loadtest.stopwatch import Stopwatch

KILL_SHARE = 0.5
# The last tasks are those of the killed worker: when they run is a time-out, not a rate.
MEASURED_SHARE = 0.9
# Without progress for this long before 90 % are done, the rate would be that of the time-out.
WITHHELD_SECONDS = 5.0

Progress = Callable[[], Awaitable[tuple[float, int]]]
"""Waits for the next count of finished tasks; returns its time in seconds and the count."""


@dataclass(frozen=True, slots=True)
class WorkerKill:
    """``kill`` kills one worker and starts it again; its tasks must be done in ``seconds``."""

    kill: Callable[[], Awaitable[None]]
    seconds: float


@dataclass(frozen=True, slots=True)
class DrainFigures:
    """Figures of one drain. ``fault``: why there is no rate (it is NaN); empty if there is one."""

    rate: float
    cpu_ms_per_task: float
    cpu_ms_by_part: dict[str, float] = field(default_factory=dict)
    fault: str = ""

    @classmethod
    def of(cls, stopwatch: Stopwatch) -> Self:
        """Read a stopwatch that has stopped."""
        return cls(stopwatch.rate, stopwatch.cpu_ms_per_task, stopwatch.cpu_ms_by_part)

    @classmethod
    def without_rate(cls, fault: str) -> Self:
        """Return the figures of a drain that does not count."""
        return cls(math.nan, math.nan, fault=fault)


async def drained_with_kill(wanted: int, progress: Progress, kill: WorkerKill) -> DrainFigures:
    """Kill one worker at half of the tasks; wait for all, and measure the rate of the first 90 %.

    Raises:
        LoadtestError: ``progress`` failed.
    """
    stopwatch = Stopwatch(wanted, MEASURED_SHARE)
    killed, measured_at = False, math.inf
    changed = (0.0, -1)
    while True:
        at, done = await progress()
        changed = changed if done == changed[1] else (at, done)
        if killed and measured_at == math.inf and at - changed[0] > WITHHELD_SECONDS:
            fault = "the killed worker held more than a tenth of the tasks: use more --tasks"
            return DrainFigures.without_rate(fault)
        if measured_at == math.inf:
            try:
                measured_at = at if stopwatch.record(at, done) else math.inf
            except LoadtestError as stalled:
                return DrainFigures.without_rate(str(stalled))
        if not killed and done >= KILL_SHARE * wanted:
            if measured_at < math.inf:
                fault = f"{done:,} of {wanted:,} tasks were done before a worker could be killed"
                return DrainFigures.without_rate(fault)
            await kill.kill()
            killed = True
        if done >= wanted:
            return DrainFigures.of(stopwatch)
        if at - measured_at > kill.seconds:
            fault = f"{wanted - done:,} of {wanted:,} tasks not done after {kill.seconds:.0f} s"
            return DrainFigures.without_rate(fault)
