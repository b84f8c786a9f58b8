"""Draw curves as SVG paths for pages without scripts.

Paths lie in a box of WIDTH x HEIGHT units that the page stretches to its size; strokes do not
stretch. Labels are HTML positioned in per cent, so that the stretching does not distort them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

WIDTH = 1000
HEIGHT = 100
# Resolution: curves are thinned to this number of columns; dots also share rows.
COLUMNS = 500
_ROWS = 50

# A step function: each value holds from its second until the next point.
Steps: TypeAlias = tuple[tuple[float, int], ...]
# Equidistant values; None for a gap.
Values: TypeAlias = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at ``percent`` of an axis."""

    percent: float
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """Seconds from ``start`` to ``end`` (greater), left to right."""

    start: float
    end: float

    def x(self, at: float) -> float:
        """Return the position in units from the left, clamped to the axis."""
        share = (at - self.start) / (self.end - self.start)
        return round(WIDTH * min(1.0, max(0.0, share)), 1)

    def percent(self, at: float) -> float:
        """Return the position in per cent of the width."""
        return round(self.x(at) * 100 / WIDTH, 2)


def round_step(least: float, factors: Sequence[float] = (1, 2, 5)) -> float:
    """Return the smallest factor times a power of ten that is at least ``least`` (positive)."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step for f in (*factors, 10) if (step := f * power) >= least)


def ticks(start: float, end: float, most: int) -> list[float]:
    """Return up to ``most`` (two or more) round numbers from start to end; if none, ``start``."""
    step = round_step(max(end - start, 1e-9) / (most - 1))
    first = math.ceil(start / step - 1e-9)
    last = math.floor(end / step + 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)] or [start]


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the value that ``share`` of the values do not exceed (nearest rank); None if empty."""
    if not values:
        return None
    rank = math.ceil(share * len(values))
    return sorted(values)[min(len(values), max(1, rank)) - 1]


# ------------------------------------------------------------------------------- step functions


def step_line(curve: Steps, axis: Axis, top: float) -> str:
    """Return the path of a step function up to the end of the axis; ``top``: value at the top."""
    if not curve:
        return ""
    steps = [f"M{axis.x(curve[0][0])} {_y(0, top)}"]
    for at, value in curve:
        steps.append(f"H{axis.x(at)}V{_y(value, top)}")
    return "".join([*steps, f"H{axis.x(axis.end)}"])


def step_area(curve: Steps, axis: Axis, top: float) -> str:
    """Return the path of ``step_line`` closed along the bottom."""
    drawn = step_line(curve, axis, top)
    return f"{drawn}V{HEIGHT}H{axis.x(curve[0][0])}Z" if drawn else ""


def stacked(curves: Sequence[Steps]) -> list[Steps]:
    """Return the curves stacked: each is the sum of itself and those before it."""
    current: dict[int, int] = {}
    changes = sorted(
        (at, which, value) for which, curve in enumerate(curves) for at, value in curve
    )
    sums: list[dict[float, int]] = [{} for _ in curves]
    for at, which, value in changes:
        current[which] = value
        height = 0
        for n in range(len(curves)):
            height += current.get(n, 0)
            sums[n][at] = height
    return [tuple(points.items()) for points in sums]


def value_at(curve: Steps, at: float) -> int:
    """Return the value of the curve at that second; 0 before its first point."""
    value = 0
    for second, count in curve:
        if second > at:
            break
        value = count
    return value


def thinned(curve: Steps, axis: Axis, columns: int = COLUMNS) -> Steps:
    """Keep at most four points per column: its first, lowest, highest and last."""
    if len(curve) <= 4 * columns:
        return curve
    width = max(axis.end - axis.start, 1e-9) / columns
    kept: list[tuple[float, int]] = []
    for _, group in groupby(curve, key=lambda point: int((point[0] - axis.start) / width)):
        points = list(group)
        chosen = {0, len(points) - 1}
        chosen.add(min(range(len(points)), key=lambda n: points[n][1]))
        chosen.add(max(range(len(points)), key=lambda n: points[n][1]))
        kept += [points[n] for n in sorted(chosen)]
    return tuple(kept)


# --------------------------------------------------------------------------- points and polylines


def dots(points: Iterable[tuple[float, float]], axis: Axis) -> str:
    """Return points (second, share of the height) as zero-length strokes.

    Points that would overlap are drawn once.
    """
    places = {
        (round(axis.x(at) * COLUMNS / WIDTH), round(share * _ROWS)): (axis.x(at), share)
        for at, share in points
    }
    return "".join(
        f"M{x} {round(HEIGHT * (1 - share), 1)}h0" for x, share in sorted(places.values())
    )


def polyline(values: Values, length: int, top: float, columns: int = COLUMNS) -> str:
    """Return a path from value to value, with gaps at None.

    The box is ``length`` values wide, and ``top`` (positive) high.
    """
    path = []
    pen_down = False
    for place, value in _highest(values, columns):
        if value is None:
            pen_down = False
            continue
        x = WIDTH * place / max(length - 1, 1)
        y = HEIGHT - HEIGHT * value / top
        # A point between two gaps is drawn as a short line.
        path.append(f"L{x:.1f} {y:.2f}" if pen_down else f"M{x:.1f} {y:.2f}h.1")
        pen_down = True
    return "".join(path)


def _highest(values: Values, columns: int) -> list[tuple[int, float | None]]:
    """Return place and value of the highest value of each column; None for a column of gaps."""
    width = max(1, math.ceil(len(values) / columns))
    kept: list[tuple[int, float | None]] = []
    for start in range(0, len(values), width):
        column = values[start : start + width]
        highest = max((value for value in column if value is not None), default=None)
        kept.append((start + column.index(highest), highest))
    return kept


def _y(value: float, top: float) -> float:
    """Return the position in units from the top, clamped to the box; the bottom if top is 0."""
    return round(HEIGHT * (1 - min(value / top, 1.0)), 1) if top else float(HEIGHT)
