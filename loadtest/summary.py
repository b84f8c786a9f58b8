"""Summarise a load run: figures, limits, errors and curves, as JSON and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.curves import Curves, curves
from loadtest.locust_run import BATCH, EFFECT, SINGLE, LocustLoad, RequestStats
from loadtest.machine import Machine
from loadtest.record import Record
from loadtest.thresholds import LimitResult
from observability.charts import quantile

# Every figure with its meaning; limits refer to these names.
MEANINGS = {
    "submitted_per_second": "tasks stored, from the first to the last",
    "drained_per_second": "tasks finished, from the first due time to the last finish",
    "drained_per_second_peak": "tasks finished in the best second",
    "effect_p50_ms": "scheduled submit to effect of watched tasks, median",
    "effect_p90_ms": "the same, 90th percentile",
    "effect_p99_ms": "the same, 99th percentile",
    "effect_p999_ms": "the same, 99.9th percentile",
    "effect_max_ms": "the same, maximum",
    "effects_watched": "number of watched tasks",
    "due_to_ended_p50_ms": "due to finished by the server's clock, all tasks, median",
    "due_to_ended_p99_ms": "the same, 99th percentile",
    "requests": "requests and watched effects counted by Locust",
    "failures": "failed requests and watched effects",
    "error_ratio": "failures over requests",
    "backlog_max": "maximum of due and unfinished tasks at the end of a second",
    "drain_seconds": "from the last task stored to the last one finished",
    "tasks": "tasks of this run on the server",
    "failed": "tasks that FAILED",
    "missing": "tasks acknowledged with 201 but missing on the server",
    "unfinished": "due tasks that were unfinished when the wait ended",
}


@dataclass(frozen=True, slots=True)
class Summary:
    """Result of one run."""

    run_id: str
    host: str
    embedded: bool
    started_at: str
    load: LocustLoad
    machine: Machine
    figures: dict[str, float | None]
    judgements: list[LimitResult]
    errors: list[dict[str, str]]
    curves: Curves
    notes: list[str]

    @property
    def passed(self) -> bool:
        return all(judgement.holds for judgement in self.judgements)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {"passed": self.passed, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the figures and the missed limits as lines of text."""
        lines = [
            f"{name:26}{format_figure(value):>12}  {MEANINGS[name]}" for name, value in self.rows()
        ]
        for judgement in self.judgements:
            if not judgement.holds:
                limit = judgement.limit
                word = "at least" if limit.bound == "min" else "at most"
                measured = format_figure(judgement.measured)
                allowed = f"{word} {format_figure(limit.value)}"
                lines.append(f"MISSED: {limit.figure} is {measured}, limit: {allowed}")
        return lines + [f"note: {note}" for note in self.notes]

    def rows(self) -> list[tuple[str, float | None]]:
        """Return the figures in the order of MEANINGS."""
        return [(name, self.figures[name]) for name in MEANINGS]


def figures_of(
    record: Record, tallies: Mapping[tuple[str, str], RequestStats], load: LocustLoad
) -> tuple[dict[str, float | None], Curves]:
    """Return every figure of MEANINGS, None if it could not be measured, and the curves."""
    drawn = curves(record.tasks)
    figures = {**_from_record(record), **_from_locust(tallies)}
    figures["drained_per_second_peak"] = max(drawn.drained, default=None)
    figures["backlog_max"] = max(drawn.waiting, default=None)
    accepted = _accepted(tallies, load)
    known = len(record.tasks)
    figures["missing"] = max(0, accepted - known) if record.complete else None
    return {name: figures[name] for name in MEANINGS}, drawn


def format_figure(value: float | None) -> str:
    """Format a figure; measured ones get three significant digits."""
    if value is None:
        return "-"
    if value == int(value) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"


def _from_record(record: Record) -> dict[str, float | None]:
    tasks = record.tasks
    ended = [task for task in tasks if task.finished is not None and task.finished > task.due]
    took = [(task.finished - task.due) * 1000 for task in ended if task.finished is not None]
    created = [task.created for task in tasks]
    finished = [task.finished for task in ended if task.finished is not None]
    newest = max(created, default=0.0)
    return {
        "tasks": len(tasks),
        "submitted_per_second": _rate(len(tasks), created, created),
        "drained_per_second": _rate(len(ended), [task.due for task in ended], finished),
        "due_to_ended_p50_ms": quantile(took, 0.5),
        "due_to_ended_p99_ms": quantile(took, 0.99),
        "drain_seconds": max(0.0, max(finished) - newest) if finished else None,
        "failed": sum(task.state == "FAILED" for task in tasks),
        "unfinished": sum(task.finished is None and task.due <= newest for task in tasks),
    }


def _from_locust(tallies: Mapping[tuple[str, str], RequestStats]) -> dict[str, float | None]:
    requests = sum(tally.requests for tally in tallies.values())
    failures = sum(tally.failures for tally in tallies.values())
    effect = tallies.get(EFFECT)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    times = {
        f"effect_{name}_ms": None if effect is None else effect.percentile(share)
        for name, share in shares.items()
    }
    return {
        **times,
        "effects_watched": 0 if effect is None else effect.requests,
        "requests": requests,
        "failures": failures,
        "error_ratio": failures / requests if requests else None,
    }


def _accepted(tallies: Mapping[tuple[str, str], RequestStats], load: LocustLoad) -> int:
    """Count the acknowledged tasks; a batch counts only if all its tasks were stored."""
    singles, batches = tallies.get(SINGLE), tallies.get(BATCH)
    count = singles.requests - singles.failures if singles else 0
    return count + ((batches.requests - batches.failures) * load.batch_size if batches else 0)


def _rate(count: int, begins: Sequence[float], ends: Sequence[float]) -> float | None:
    """Return a rate per second; None for a duration of zero."""
    seconds = max(ends, default=0.0) - min(begins, default=0.0)
    return count / seconds if seconds > 0 else None
