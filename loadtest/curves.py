"""A run second by second: what came, what was done, what waited, how long it took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.record import Life
from observability.charts import quantile


@dataclass(frozen=True, slots=True)
class Curves:
    """One value per second, from the first task's due time on.

    ``waiting`` is what was due and not ended at the end of that second; the two latencies
    (milliseconds, from due to ended) are of what ended in it, None where nothing did.
    """

    stored: tuple[int, ...]
    drained: tuple[int, ...]
    waiting: tuple[int, ...]
    latency_p50: tuple[float | None, ...]
    latency_p99: tuple[float | None, ...]


def curves(lives: Sequence[Life]) -> Curves:
    """Of what became due: a task cancelled before its time never waited."""
    counted = [life for life in lives if life.finished is None or life.finished > life.due]
    began = min((life.due for life in counted), default=0.0)
    stored: defaultdict[int, int] = defaultdict(int)
    took: defaultdict[int, list[float]] = defaultdict(list)
    for life in counted:
        stored[int(life.due - began)] += 1
        if life.finished is not None:
            took[int(life.finished - began)].append((life.finished - life.due) * 1000)
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
