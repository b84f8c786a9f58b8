"""The result of a load run: figures, limits, errors and curves, as JSON and as text."""

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
    "submitted_per_second": "tasks stored, over the time from the first to the last",
    "drained_per_second": "tasks ended, over the time from the first one due to the last one's end",
    "drained_per_second_peak": "tasks ended in the best second",
    "effect_p50_ms": "from when a watched task's submit was due to its effect, half took longer",
    "effect_p90_ms": "the same, 1 of 10 took longer",
    "effect_p99_ms": "the same, 1 of 100 took longer",
    "effect_p999_ms": "the same, 1 of 1,000 took longer",
    "effect_max_ms": "the same, the longest",
    "effects_watched": "how many were timed so",
    "due_to_ended_p50_ms": "from due to ended by the server's clock, all tasks; half took longer",
    "due_to_ended_p99_ms": "the same, 1 of 100 took longer",
    "requests": "requests and watched effects that Locust counted",
    "failures": "those of them that failed",
    "error_ratio": "failures over requests",
    "backlog_max": "most tasks that were due and not ended at the end of a second",
    "drain_seconds": "from the last task stored to the last one ended",
    "tasks": "tasks of this run that the server has",
    "failed": "those of them that FAILED",
    "missing": "tasks that were answered 201 and that the server does not have",
    "unfinished": "tasks that were due and had not ended when the wait for them did",
}


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of one run."""

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
        told = [f"{name:26}{tell(value):>12}  {MEANINGS[name]}" for name, value in self.rows()]
        for judgement in self.judgements:
            if not judgement.holds:
                limit = judgement.limit
                word = "at least" if limit.bound == "min" else "at most"
                measured = tell(judgement.measured)
                told.append(f"MISSED: {limit.figure} is {measured}, {word} {tell(limit.value)}")
        return told + [f"note: {note}" for note in self.notes]

    def rows(self) -> list[tuple[str, float | None]]:
        """The figures in the order of MEANINGS."""
        return [(name, self.figures[name]) for name in MEANINGS]


def figures_of(
    record: Record, tallies: Mapping[tuple[str, str], RequestStats], load: LocustLoad
) -> tuple[dict[str, float | None], Curves]:
    """Every figure of MEANINGS, None where it could not be measured; and the curves."""
    drawn = curves(record.lives)
    figures = {**_from_record(record), **_from_locust(tallies)}
    figures["drained_per_second_peak"] = max(drawn.drained, default=None)
    figures["backlog_max"] = max(drawn.waiting, default=None)
    accepted = _accepted(tallies, load)
    known = len(record.lives)
    figures["missing"] = max(0, accepted - known) if record.complete else None
    return {name: figures[name] for name in MEANINGS}, drawn


def tell(value: float | None) -> str:
    """Format a figure; measured ones get three significant digits."""
    if value is None:
        return "-"
    if value == int(value) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"


def _from_record(record: Record) -> dict[str, float | None]:
    lives = record.lives
    ended = [life for life in lives if life.finished is not None and life.finished > life.due]
    took = [(life.finished - life.due) * 1000 for life in ended if life.finished is not None]
    created = [life.created for life in lives]
    finished = [life.finished for life in ended if life.finished is not None]
    newest = max(created, default=0.0)
    return {
        "tasks": len(lives),
        "submitted_per_second": _rate(len(lives), created, created),
        "drained_per_second": _rate(len(ended), [life.due for life in ended], finished),
        "due_to_ended_p50_ms": quantile(took, 0.5),
        "due_to_ended_p99_ms": quantile(took, 0.99),
        "drain_seconds": max(0.0, max(finished) - newest) if finished else None,
        "failed": sum(life.state == "FAILED" for life in lives),
        "unfinished": sum(life.finished is None and life.due <= newest for life in lives),
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
    """Count the acknowledged tasks; a batch counts only as a whole."""
    singles, batches = tallies.get(SINGLE), tallies.get(BATCH)
    count = singles.requests - singles.failures if singles else 0
    return count + ((batches.requests - batches.failures) * load.batch_size if batches else 0)


def _rate(count: int, begins: Sequence[float], ends: Sequence[float]) -> float | None:
    """Return a rate per second; None for a duration of zero."""
    seconds = max(ends, default=0.0) - min(begins, default=0.0)
    return count / seconds if seconds > 0 else None
