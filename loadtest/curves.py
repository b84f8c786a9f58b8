"""Aggregate a run per second: tasks stored, drained and waiting, and their latency."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.record import TaskTimes
from observability.charts import quantile


@dataclass(frozen=True, slots=True)
class Curves:
    """One value per second, starting at the first due time.

    ``waiting`` counts tasks that were due and not finished at the end of the second. Latencies are
    in milliseconds from due to finished, over the tasks that finished in the second; None if none
    did.
    """

    stored: tuple[int, ...]
    drained: tuple[int, ...]
    waiting: tuple[int, ...]
    latency_p50: tuple[float | None, ...]
    latency_p99: tuple[float | None, ...]


def curves(tasks: Sequence[TaskTimes]) -> Curves:
    """Aggregate the tasks that became due; one cancelled before its due time never waited."""
    counted = [task for task in tasks if task.finished is None or task.finished > task.due]
    began = min((task.due for task in counted), default=0.0)
    stored: defaultdict[int, int] = defaultdict(int)
    took: defaultdict[int, list[float]] = defaultdict(list)
    for task in counted:
        stored[int(task.due - began)] += 1
        if task.finished is not None:
            took[int(task.finished - began)].append((task.finished - task.due) * 1000)
    seconds = range(max([*stored, *took], default=-1) + 1)
    waiting, series = 0, []
    for second in seconds:
        waiting += stored[second] - len(took[second])
        series.append(waiting)
    return Curves(
        stored=tuple(stored[second] for second in seconds),
        drained=tuple(len(took[second]) for second in seconds),
        waiting=tuple(series),
        latency_p50=tuple(quantile(took[second], 0.5) for second in seconds),
        latency_p99=tuple(quantile(took[second], 0.99) for second in seconds),
    )
