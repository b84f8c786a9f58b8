"""The arena's time and its ticks, and paths on it.

Drawings are 1000 units wide and 100 high, and are stretched to what the page gives them; strokes
do not stretch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chaos.report.curves import Curve

WIDTH = 1000
HEIGHT = 100
# A point per two units at most, of each curve: more cannot be seen.
COLUMNS = 500
_ROWS = 50


@dataclass(frozen=True, slots=True)
class Axis:
    """Seconds from ``start`` to ``end`` (greater), left to right."""

    start: float
    end: float

    def x(self, at: float) -> float:
        """Units from the left, kept inside."""
        share = (at - self.start) / (self.end - self.start)
        return round(WIDTH * min(1.0, max(0.0, share)), 1)

    def percent(self, at: float) -> float:
        """As ``x``, in per cent of the width."""
        return round(self.x(at) * 100 / WIDTH, 2)


def ticks(start: float, end: float, most: int) -> list[float]:
    """Round numbers from start to end, at most so many and at least one."""
    span = max(end - start, 1e-9)
    least = 10 ** math.floor(math.log10(span / most))
    step = next(
        s for s in (least * f for f in (1, 2, 5, 10, 20)) if span / s <= most - 1 or s >= span
    )
    first = math.ceil(start / step - 1e-9)
    last = math.floor(end / step + 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)] or [start]


def line(curve: Curve, axis: Axis, top: float) -> str:
    """The path of a step function that ends at the end of the axis; ``top``: value at the top."""
    if not curve:
        return ""
    steps = [f"M{axis.x(curve[0][0])} {_y(0, top)}"]
    for at, value in curve:
        steps.append(f"H{axis.x(at)}V{_y(value, top)}")
    return "".join([*steps, f"H{axis.x(axis.end)}"])


def area(curve: Curve, axis: Axis, top: float) -> str:
    """As ``line``, closed along the bottom."""
    drawn = line(curve, axis, top)
    return f"{drawn}V{HEIGHT}H{axis.x(curve[0][0])}Z" if drawn else ""


def dots(points: Iterable[tuple[float, float]], axis: Axis) -> str:
    """Points (second, share of the height from the bottom) as strokes without length; those that
    would lie on one another are drawn once.
    """
    places = {
        (round(axis.x(at) * COLUMNS / WIDTH), round(share * _ROWS)): (axis.x(at), share)
        for at, share in points
    }
    return "".join(
        f"M{x} {round(HEIGHT * (1 - share), 1)}h0" for x, share in sorted(places.values())
    )


def stacked(curves: Sequence[Curve]) -> list[Curve]:
    """Each curve on top of the ones before it."""
    total: dict[int, int] = {}
    changes = sorted(
        (at, which, value) for which, curve in enumerate(curves) for at, value in curve
    )
    sums: list[dict[float, int]] = [{} for _ in curves]
    for at, which, value in changes:
        total[which] = value
        height = 0
        for n in range(len(curves)):
            height += total.get(n, 0)
            sums[n][at] = height
    return [tuple(points.items()) for points in sums]


def _y(value: float, top: float) -> float:
    return round(HEIGHT * (1 - min(value / top, 1.0)), 1) if top else float(HEIGHT)
