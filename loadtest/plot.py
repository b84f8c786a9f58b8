"""Build line plots over the seconds of a run: curves, axes and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from observability.charts import Tick, Values, polyline, round_step

TICKS = 4
COLUMNS = 400


@dataclass(frozen=True, slots=True)
class PlotLine:
    """One curve. ``colour`` is an index into the page's palette, from 1."""

    name: str
    colour: int
    path: str
    top: float


@dataclass(frozen=True, slots=True)
class Plot:
    """Curves with their ticks, in per cent: ``across`` from the left, ``up`` from the top."""

    title: str
    unit: str
    lines: tuple[PlotLine, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


def plot(title: str, unit: str, series: Sequence[tuple[str, Values]], step: float = 1.0) -> Plot:
    """Draw named curves over the same time; each value stands for ``step`` seconds."""
    highest = max((value for _, line in series for value in _known(line)), default=0.0)
    grain = round_step(highest / TICKS, (1, 2, 2.5, 5)) if highest > 0 else 1.0
    ceiling = max(grain * math.ceil(highest / grain), grain)
    length = max((len(line) for _, line in series), default=0)
    return Plot(
        title=title,
        unit=unit,
        lines=tuple(
            PlotLine(
                name,
                number,
                polyline(line, length, ceiling, COLUMNS),
                max(_known(line), default=0.0),
            )
            for number, (name, line) in enumerate(series, 1)
        ),
        across=tuple(_across(length * step)),
        up=tuple(
            Tick(100 - 100 * level * grain / ceiling, f"{level * grain:,.10g}")
            for level in range(round(ceiling / grain) + 1)
        ),
    )


def _known(values: Values) -> list[float]:
    return [value for value in values if value is not None]


def _across(seconds: float) -> list[Tick]:
    """Label about five round instants, in seconds, minutes or hours."""
    if seconds <= 0:
        return []
    choices = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
    gap = next((choice for choice in choices if seconds / choice <= 6), choices[-1])
    unit, name = (3600, "h") if gap >= 3600 else (60, "min") if gap >= 60 else (1, "s")
    return [
        Tick(100 * second / seconds, f"{second / unit:g} {name}")
        for second in range(0, math.floor(seconds) + 1, gap)
    ]
