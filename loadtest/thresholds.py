"""Read limits of figures from a file and check a run against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loadtest.processes import LoadtestError

DEFAULT_FILE = Path(__file__).with_name("thresholds.yaml")


@dataclass(frozen=True, slots=True)
class Limit:
    """A figure must be at least (``min``) or at most (``max``) ``value``."""

    figure: str
    bound: str
    value: float

    def holds(self, measured: float | None) -> bool:
        """Whether the limit holds; a figure that could not be measured misses it."""
        if measured is None:
            return False
        return measured >= self.value if self.bound == "min" else measured <= self.value


@dataclass(frozen=True, slots=True)
class LimitResult:
    """One limit and what was measured."""

    limit: Limit
    measured: float | None
    holds: bool


def read_limits(path: Path, known: Sequence[str]) -> list[Limit]:
    """Read the limits of a file: ``figure: {min: number, max: number}``, either or both.

    Raises:
        LoadtestError: the file cannot be read, or has a figure that is not in ``known``.
    """
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LoadtestError(f"cannot read the thresholds {path}: {error}") from error
    if not isinstance(content, dict):
        raise LoadtestError(f"{path}: expected figures with their limits, as in {DEFAULT_FILE}")
    limits: list[Limit] = []
    for figure, bounds in content.items():
        if figure not in known:
            raise LoadtestError(f"{path}: unknown figure {figure!r}, known: {', '.join(known)}")
        if not isinstance(bounds, dict) or not bounds:
            raise LoadtestError(f"{path}: {figure} needs {{min: ...}}, {{max: ...}} or both")
        for bound, value in bounds.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if bound not in {"min", "max"} or not number:
                raise LoadtestError(f"{path}: {figure}: {bound}: {value} is not a limit")
            limits.append(Limit(figure, bound, float(value)))
    return limits


def judge(limits: Sequence[Limit], figures: Mapping[str, float | None]) -> list[LimitResult]:
    """Check every limit, in the order of the file."""
    return [
        LimitResult(limit, figures[limit.figure], limit.holds(figures[limit.figure]))
        for limit in limits
    ]
