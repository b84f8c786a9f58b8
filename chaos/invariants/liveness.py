"""Liveness: L1 (done within T after the heal), L2 (progress under faults), L4 (on time in calm).

L1 and L2 lay database instants on the arena's clock (``History.seconds``); L4 compares instants of
the database only. What the end of the history cannot decide yet is ``undecided``, not violated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from chaos.bounds import CONTAINER_START_SECONDS
from chaos.history import History
from chaos.invariants.violation import Violation
from chaos.records import ArenaName, Event, Task
from system.lifecycle import TERMINAL, Reason


@dataclass(frozen=True, slots=True)
class Span:
    """A task in arena seconds: since when it should have ended, and when it did (None: never)."""

    task: Task
    due: float
    finished: float | None


def spans(history: History) -> list[Span]:
    """One per row of the final read. A retry by hand makes a task due anew."""
    found = []
    for task in history.tasks.values():
        events = history.events.get(task.task_id, ())
        retried = [history.seconds(e.at) for e in events if e.reason == Reason.RETRIED]
        due = max(history.seconds(task.run_at), history.seconds(task.created_at), *retried[-1:])
        done = task.state in TERMINAL and task.finished_at is not None
        finished = history.seconds(task.finished_at) if done and task.finished_at else None
        found.append(Span(task, due, finished))
    return found


def allowed_seconds(history: History, law: str) -> float:
    """The limit of a law of liveness: the scenario's own number, else the computed T."""
    asked = history.run.scenario.get("expect", {}).get("eventually", {}).get(law, "computed")
    return history.run.bound.seconds if asked == "computed" else float(asked)


def recovery_seconds(history: History) -> float | None:
    """Seconds from the heal until every task due by then was terminal; None: that did not happen
    (or there was no heal).
    """
    healed = history.phases.get("healed")
    if healed is None:
        return None
    ends = [span.finished for span in spans(history) if span.due <= healed]
    last = healed
    for end in ends:
        if end is None:
            return None
        last = max(last, end)
    return last - healed


def done_in_time(history: History) -> list[Violation]:
    """L1: every task is terminal within T after it was due and everything was healed."""
    found: list[Violation] = []
    for span, deadline, over in _late(history):
        if over:
            end = "never ended" if span.finished is None else f"ended at {span.finished:.2f} s"
            message = f"{span.task.state}: should have ended by {deadline:.2f} s, {end}"
            last: tuple[Event, ...] = history.events.get(span.task.task_id, ())[-1:]
            found.append(Violation("L1", span.task.task_id, message, (span.task, *last)))
    return found


def undecided(history: History) -> list[str]:
    """Why the history ends too early to judge L1; empty: it does not."""
    open_ones = [span.task.task_id for span, _, over in _late(history) if not over]
    if not open_ones:
        return []
    return [f"{len(open_ones)} tasks were open when the history ended before their deadline"]


def _late(history: History) -> Iterator[tuple[Span, float, bool]]:
    """Tasks that did not end by their deadline; over: and the deadline has certainly passed."""
    healed, drained = history.phases.get("healed"), history.phases.get("drained")
    if healed is None or drained is None:
        return
    allowed = allowed_seconds(history, "L1")
    for span in spans(history):
        deadline = max(healed, span.due) + allowed
        if span.finished is None:
            yield span, deadline, drained >= deadline
        elif span.finished > deadline:
            yield span, deadline, True


def progress_under_faults(history: History) -> list[Violation]:
    """L2: while faults last, no stretch longer than the limit passes in which a task is due and
    open and none ends. The limits of scenarios are for processes: a container that was killed is
    given longer to be back.
    """
    begun, healed = history.phases.get("faults"), history.phases.get("healed")
    if begun is None or healed is None:
        return []
    allowed = allowed_seconds(history, "L2")
    if history.run.arena is ArenaName.COMPOSE:
        allowed += CONTAINER_START_SECONDS
    by_end = sorted(spans(history), key=_end, reverse=True)
    ends = [_end(span) for span in by_end if begun < _end(span) < healed]
    found: list[Violation] = []
    oldest: Span | None = None
    place = 0
    for end, start in pairwise([healed, *ends, begun]):
        # Between start and end nothing ended: what ends at `end` or later was open throughout.
        while place < len(by_end) and _end(by_end[place]) >= end:
            span = by_end[place]
            oldest = span if oldest is None or span.due < oldest.due else oldest
            place += 1
        stalled = end - max(start, oldest.due) if oldest else 0.0
        if oldest and stalled > allowed:
            message = (
                f"nothing ended for {stalled:.2f} s before {end:.2f} s ({allowed:g} s allowed)"
            )
            found.append(Violation("L2", oldest.task.task_id, message, (oldest.task,)))
    return found


def _end(span: Span) -> float:
    return float("inf") if span.finished is None else span.finished


def on_time(history: History) -> list[Violation]:
    """L4: the first attempt of every task starts within the limit after it was due, unless the
    task was cancelled before.
    """
    allowed = allowed_seconds(history, "L4")
    found: list[Violation] = []
    for span in spans(history):
        events = history.events.get(span.task.task_id, ())
        begun = next((e for e in events if e.reason in {Reason.CLAIMED, Reason.CANCELLED}), None)
        due = max(history.seconds(span.task.run_at), history.seconds(span.task.created_at))
        late = history.seconds(begun.at) - due if begun else float("inf")
        if late > allowed:
            how = f"{late:.2f} s late" if begun else "never"
            message = f"started {how} ({allowed:g} s allowed)"
            evidence = (span.task,) if begun is None else (span.task, begun)
            found.append(Violation("L4", span.task.task_id, message, evidence))
    return found
