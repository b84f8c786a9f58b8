"""Compute the curves of a run, in arena seconds: tasks accepted, done and waiting, and latency."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from chaos.checker.invariants.liveness import lifetimes
from chaos.history.history import History
from chaos.history.records import Event
from holdfast.model.lifecycle import Reason, State
from observability.charts import Steps

# Where a task can be. SCHEDULED is split in two: not due yet (or backing off), and due.
WAITING, DUE = "waiting", "due"
PLACES = (WAITING, DUE, *(state for state in State if state is not State.SCHEDULED))

# After these a task is due immediately; after a failure it backs off until its dispatch.
_DUE_IMMEDIATELY = frozenset({Reason.LOST, Reason.RELEASED, Reason.RETRIED})


@dataclass(frozen=True, slots=True)
class Stay:
    """A task in a place; ``end`` is None if it stays there until the end of the history."""

    place: str
    start: float
    end: float | None
    event: Event


@dataclass(frozen=True, slots=True)
class EffectLatency:
    """Seconds from due to the effect of one task; ``at``: arena second of the effect."""

    at: float
    seconds: float
    task_id: str


def accepted(history: History) -> Steps:
    """Return the cumulative number of tasks reported as accepted to some client."""
    first: dict[str, float] = {}
    for submit in history.of("submit"):
        task_id = submit.value.get("task_id")
        if submit.type == "ok" and submit.completion and task_id is not None:
            at = submit.completion.at
            first[task_id] = min(at, first.get(task_id, at))
    return _summed((at, 1) for at in first.values())


def effects(history: History) -> Steps:
    """Return the cumulative number of ledger rows."""
    return _summed(
        (history.seconds(row.at), 1) for rows in history.effects.values() for row in rows
    )


def stays_by_task(history: History) -> dict[str, list[Stay]]:
    """Return the stays of every task that has events."""
    return {task_id: stays(history, task_id) for task_id in history.events}


def depth(stays_of: Mapping[str, Sequence[Stay]]) -> dict[str, Steps]:
    """Return how many tasks were in each of ``PLACES``; at any instant they add up to all tasks."""
    changes: dict[str, list[tuple[float, int]]] = {place: [] for place in PLACES}
    for found in stays_of.values():
        for stay in found:
            changes[stay.place].append((stay.start, 1))
            if stay.end is not None:
                changes[stay.place].append((stay.end, -1))
    return {place: _summed(steps) for place, steps in changes.items()}


def stays(history: History, task_id: str) -> list[Stay]:
    """Return where a task was and when, without gaps; repeated entries into a place are merged."""
    events = history.events.get(task_id, ())
    found: list[Stay] = []
    for number, event in enumerate(events):
        start = history.seconds(event.at)
        # Instants of a task never decrease in a valid history; an invalid one is drawn anyway.
        start = max(start, found[-1].start) if found else start
        after = history.seconds(events[number + 1].at) if number + 1 < len(events) else None
        end = None if after is None else max(start, after)
        found += _places(history, event, start, end)
    return [stay for stay in _joined(found) if stay.end is None or stay.end > stay.start]


def latencies(history: History) -> tuple[EffectLatency, ...]:
    """Return the latency of every task with an effect, in the order of the effects."""
    due = {each.task.task_id: each.due for each in history.view(lifetimes)}
    found = [
        EffectLatency(at, max(0.0, at - due[task_id]), task_id)
        for task_id, rows in history.effects.items()
        if task_id in due
        for at in [history.seconds(rows[0].at)]
    ]
    return tuple(sorted(found, key=lambda latency: (latency.at, latency.task_id)))


def _places(history: History, event: Event, start: float, end: float | None) -> Iterator[Stay]:
    if event.to_state != State.SCHEDULED:
        yield Stay(event.to_state, start, end, event)
        return
    due = start
    if event.reason == Reason.SUBMITTED:
        task = history.tasks.get(event.task_id)
        due = max(start, history.seconds(task.run_at)) if task else start
    elif event.reason not in _DUE_IMMEDIATELY:
        due = float("inf")
    if end is not None and due >= end:
        yield Stay(WAITING, start, end, event)
    elif due == float("inf"):
        yield Stay(WAITING, start, None, event)
    else:
        yield Stay(WAITING, start, due, event)
        yield Stay(DUE, due, end, event)


def _joined(found: Iterable[Stay]) -> Iterator[Stay]:
    last: Stay | None = None
    for stay in found:
        if last is None:
            last = stay
        elif last.place == stay.place and last.end == stay.start:
            last = Stay(last.place, last.start, stay.end, last.event)
        else:
            yield last
            last = stay
    if last is not None:
        yield last


def _summed(changes: Iterable[tuple[float, int]]) -> Steps:
    """Return one point per second at which something changed."""
    ordered = sorted(changes)
    by_second = [
        (at, sum(change for _, change in group))
        for at, group in groupby(ordered, key=lambda change: change[0])
    ]
    counts = accumulate(change for _, change in by_second)
    return tuple((at, count) for (at, _), count in zip(by_second, counts, strict=True))
