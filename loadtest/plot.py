"""Curves as inline SVG: paths in a box of 100 by 100, stretched to whatever width the page has.

The labels are text beside the drawing, not in it, so that they stay readable on a small screen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Values = Sequence[float | None]
TICKS = 4
COLUMNS = 400


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. ``colour`` is a number of the page's palette, from 1."""

    name: str
    colour: int
    path: str
    top: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at ``place`` per cent of an axis, from the top or the left."""

    place: float
    label: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing with its two axes."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


def plot(title: str, unit: str, series: Sequence[tuple[str, Values]], step: float = 1.0) -> Plot:
    """Curves over the same seconds: each value holds for ``step`` of them."""
    values = [value for _, line in series for value in line if value is not None]
    grain = _grain(max(values, default=0.0) / TICKS)
    ceiling = max(grain * math.ceil(max(values, default=0.0) / grain), grain)
    length = max((len(line) for _, line in series), default=0)
    return Plot(
        title=title,
        unit=unit,
        lines=tuple(
            Line(name, number, _path(line, length, ceiling), max(_known(line), default=0.0))
            for number, (name, line) in enumerate(series, 1)
        ),
        across=tuple(_across(length * step)),
        up=tuple(
            Tick(100 - 100 * level * grain / ceiling, f"{level * grain:,.10g}")
            for level in range(round(ceiling / grain) + 1)
        ),
    )


def _path(values: Values, length: int, ceiling: float) -> str:
    """Straight from value to value; a gap where there is none."""
    words = []
    pen_down = False
    for place, value in _thinned(values):
        if value is None:
            pen_down = False
            continue
        x = 100 * place / max(length - 1, 1)
        y = 100 - 100 * value / ceiling
        # A point alone between two gaps is drawn as a short line.
        words.append(f"L{x:.2f} {y:.2f}" if pen_down else f"M{x:.2f} {y:.2f}h.01")
        pen_down = True
    return "".join(words)


def _thinned(values: Values) -> list[tuple[int, float | None]]:
    """No more points than a screen has columns: of each column the highest."""
    width = max(1, math.ceil(len(values) / COLUMNS))
    thinned: list[tuple[int, float | None]] = []
    for start in range(0, len(values), width):
        column = values[start : start + width]
        known = _known(column)
        highest = max(known) if known else None
        thinned.append((start + column.index(highest), highest))
    return thinned


def _known(values: Values) -> list[float]:
    return [value for value in values if value is not None]


def _across(seconds: float) -> list[Tick]:
    """A label every so many seconds, minutes or hours, about five in all."""
    if seconds <= 0:
        return []
    choices = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
    gap = next((choice for choice in choices if seconds / choice <= 6), choices[-1])
    unit, name = (3600, "h") if gap >= 3600 else (60, "min") if gap >= 60 else (1, "s")
    return [
        Tick(100 * second / seconds, f"{second / unit:g} {name}")
        for second in range(0, math.floor(seconds) + 1, gap)
    ]


def _grain(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least that."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least)
