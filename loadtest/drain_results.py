"""Hold the figures of a drain measurement, as text and JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from loadtest.database_probe import LatencySummary


@dataclass(frozen=True, slots=True)
class Round:
    """One round: ``tasks`` stored, then drained. Rates are in tasks per second.

    ``cpu_ms_per_task`` covers all processes during the drain; NaN if the drain was too short.
    ``cpu_ms_by_part`` is the same by role, with ``postgres`` and ``other``. ``fault``: why the
    drain does not count; its figures are then NaN.
    """

    tasks: int
    submitted_per_second: float
    drained_per_second: float
    cpu_ms_per_task: float
    cpu_ms_by_part: dict[str, float] = field(default_factory=dict)
    fault: str = ""


@dataclass(slots=True)
class Figures:
    """Figures of one run."""

    holdfast: list[Round] = field(default_factory=list)
    procrastinate: list[Round] = field(default_factory=list)
    latency: dict[str, LatencySummary] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        figures = {**asdict(self), "ratio": self.ratios(), "cpu_ratio": self.cpu_ratios()}
        return cast("dict[str, Any]", without_nan(figures))

    def ratios(self) -> list[float]:
        """Return our drain rate over Procrastinate's per round; adjacent rounds share noise."""
        pairs = zip(self.holdfast, self.procrastinate, strict=False)
        return [ours.drained_per_second / theirs.drained_per_second for ours, theirs in pairs]

    def cpu_ratios(self) -> list[float]:
        """Return Procrastinate's CPU time per task over ours, per round."""
        pairs = zip(self.holdfast, self.procrastinate, strict=False)
        return [theirs.cpu_ms_per_task / ours.cpu_ms_per_task for ours, theirs in pairs]

    def lines(self) -> list[str]:
        """Return a table of medians and, in brackets, ranges over the rounds."""
        lines = [
            f"{'':14}{'submitted/s':>26}{'drained/s':>26}{'CPU ms/task':>22}",
            _row("Holdfast", self.holdfast),
        ]
        if self.procrastinate:
            lines.append(_row("Procrastinate", self.procrastinate))
            cost = spread(self.cpu_ratios(), "x", 1)
            lines.append(f"{'ratio':14}{'':26}{spread(self.ratios(), 'x', 1):>26}{cost:>22}")
        for name, latency in self.latency.items():
            lines.append(
                f"{name}: p50 {latency.p50 * 1000:.1f} ms, p99 {latency.p99 * 1000:.1f} ms, "
                f"max {latency.max * 1000:.1f} ms over {latency.count} tasks"
            )
        return lines


def spread(values: Sequence[float], unit: str = "", digits: int = 0) -> str:
    """Format as ``median (lowest..highest)``; a single value without the range."""
    middle = f"{statistics.median(values):,.{digits}f}{unit}"
    if len(values) < 2:
        return middle
    return f"{middle} ({min(values):,.{digits}f}..{max(values):,.{digits}f})"


def without_nan(value: Any) -> Any:
    """Replace NaN by None, since JSON has no NaN."""
    match value:
        case float() if math.isnan(value):
            return None
        case dict():
            return {key: without_nan(item) for key, item in value.items()}
        case list():
            return [without_nan(item) for item in value]
        case _:
            return value


def _row(name: str, rounds: Sequence[Round]) -> str:
    submitted = spread([r.submitted_per_second for r in rounds])
    drained = spread([r.drained_per_second for r in rounds])
    cpu = spread([r.cpu_ms_per_task for r in rounds], digits=2)
    return f"{name:14}{submitted:>26}{drained:>26}{cpu:>22}"
