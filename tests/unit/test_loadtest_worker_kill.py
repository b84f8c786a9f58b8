"""A drain with a kill counts only if the killed worker's tasks are done in time, too."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest

from loadtest.worker_kill import DrainFigures, WorkerKill, drained_with_kill


class Drain:
    """Reports the counts of a script, one a second, and when the worker was killed."""

    def __init__(self, *counts: int) -> None:
        self._counts = list(enumerate(counts))
        self._done = 0
        self.killed_at: list[int] = []

    async def progress(self) -> tuple[float, int]:
        at, self._done = self._counts.pop(0)
        return float(at), self._done

    async def kill(self) -> None:
        self.killed_at.append(self._done)

    def run(self, seconds: float = 30.0) -> DrainFigures:
        return asyncio.run(drained_with_kill(100, self.progress, WorkerKill(self.kill, seconds)))


def test_rate_excludes_the_wait_for_the_killed_workers_tasks() -> None:
    drain = Drain(0, 20, 50, 60, 92, *[92] * 20, 100)
    figures = drain.run()
    assert drain.killed_at == [50]
    assert figures.rate == (92 - 20) / 3
    assert not figures.fault


@pytest.mark.parametrize(
    ("counts", "fault"),
    [
        ([0, 20, 50, 90, *[95] * 40], "5 of 100 tasks not done after 30 s"),
        ([0, 20, 100], "100 of 100 tasks were done before a worker could be killed"),
        ([0, *[20] * 70], "no progress for 60 s: 20 of 100"),
        (
            [0, 20, 50, *[60] * 30, 92, 100],
            "the killed worker held more than a tenth of the tasks: use more --tasks",
        ),
    ],
)
def test_a_drain_with_a_fault_has_no_rate(counts: Sequence[int], fault: str) -> None:
    figures = Drain(*counts).run()
    assert figures.fault == fault
    assert math.isnan(figures.rate)
