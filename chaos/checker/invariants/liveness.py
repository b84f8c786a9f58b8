"""Check liveness: L1 (done within T after the heal), L2 (progress under faults), L4 (on time).

L1 and L2 convert database instants to the arena's clock (``History.seconds``); L4 compares database
instants only. Tasks whose deadline lies after the end of the history are ``undecided``, not
violations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from chaos.checker.bounds import CONTAINER_START_SECONDS
from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.violation import Violation
from chaos.history.history import History
from chaos.history.records import ArenaName, Event, TaskRow
from holdfast.model.lifecycle import TERMINAL, Reason


@dataclass(frozen=True, slots=True)
class TaskLifetime:
    """When a task became due and when it finished (None: it did not), in arena seconds."""

    task: TaskRow
    due: float
    finished: float | None


def lifetimes(history: History) -> list[TaskLifetime]:
    """Return the lifetime of each task of the final read; a manual retry makes a task due again."""
    found = []
    for task in history.tasks.values():
        events = history.events.get(task.task_id, ())
        retried = [history.seconds(e.at) for e in events if e.reason == Reason.RETRIED]
        due = max(history.seconds(task.run_at), history.seconds(task.created_at), *retried[-1:])
        done = task.state in TERMINAL and task.finished_at is not None
        finished = history.seconds(task.finished_at) if done and task.finished_at else None
        found.append(TaskLifetime(task, due, finished))
    return found


def allowed_seconds(history: History, law: str) -> float:
    """Return the limit of a liveness invariant: the scenario's own number, else the computed T."""
    asked = history.run.scenario.get("expect", {}).get("eventually", {}).get(law, "computed")
    return history.run.bound.seconds if asked == "computed" else float(asked)


def recovery_seconds(history: History) -> float | None:
    """Return the seconds from the heal until every task due by then was terminal.

    None: some task never became terminal, or the history has no heal.
    """
    healed = history.phases.get("healed")
    if healed is None:
        return None
    ends = [lifetime.finished for lifetime in history.view(lifetimes) if lifetime.due <= healed]
    last = healed
    for end in ends:
        if end is None:
            return None
        last = max(last, end)
    return last - healed


@invariant("L1", "the end of each task with its due time, the heal and T")
def done_in_time(history: History) -> list[Violation]:
    """Every task is terminal within T after it was due and all faults were healed."""
    found: list[Violation] = []
    for lifetime, deadline, over in _late(history):
        if over:
            end = (
                "never ended"
                if lifetime.finished is None
                else f"ended at {lifetime.finished:.2f} s"
            )
            message = f"{lifetime.task.state}: should have ended by {deadline:.2f} s, {end}"
            last: tuple[Event, ...] = history.events.get(lifetime.task.task_id, ())[-1:]
            found.append(Violation("L1", lifetime.task.task_id, message, (lifetime.task, *last)))
    return found


def undecided(history: History) -> list[str]:
    """Return why the history ends too early to judge L1; empty if it can be judged."""
    open_ones = [lifetime.task.task_id for lifetime, _, over in _late(history) if not over]
    if not open_ones:
        return []
    return [f"{len(open_ones)} tasks were open when the history ended before their deadlines"]


def _late(history: History) -> Iterator[tuple[TaskLifetime, float, bool]]:
    """Yield tasks that missed their deadline: (task, deadline, whether the deadline has passed)."""
    healed, drained = history.phases.get("healed"), history.phases.get("drained")
    if healed is None or drained is None:
        return
    allowed = allowed_seconds(history, "L1")
    for lifetime in history.view(lifetimes):
        deadline = max(healed, lifetime.due) + allowed
        if lifetime.finished is None:
            yield lifetime, deadline, drained >= deadline
        elif lifetime.finished > deadline:
            yield lifetime, deadline, True


@invariant("L2", "ends with the intervals of the faults")
def progress_under_faults(history: History) -> list[Violation]:
    """Tasks keep ending while faults last.

    No interval longer than the limit passes in which a task is due and open and no task ends. The
    limits in scenarios are for processes; containers get the extra time they take to restart.
    """
    begun, healed = history.phases.get("faults"), history.phases.get("healed")
    if begun is None or healed is None:
        return []
    allowed = allowed_seconds(history, "L2")
    if history.run.arena is ArenaName.COMPOSE:
        allowed += CONTAINER_START_SECONDS
    by_end = sorted(history.view(lifetimes), key=_end, reverse=True)
    ends = [_end(lifetime) for lifetime in by_end if begun < _end(lifetime) < healed]
    found: list[Violation] = []
    oldest: TaskLifetime | None = None
    place = 0
    for end, start in pairwise([healed, *ends, begun]):
        # No task ended between start and end: what ends at `end` or later was open throughout.
        while place < len(by_end) and _end(by_end[place]) >= end:
            lifetime = by_end[place]
            oldest = lifetime if oldest is None or lifetime.due < oldest.due else oldest
            place += 1
        stalled = end - max(start, oldest.due) if oldest else 0.0
        if oldest and stalled > allowed:
            message = (
                f"no task ended for {stalled:.2f} s before {end:.2f} s ({allowed:g} s allowed)"
            )
            found.append(Violation("L2", oldest.task.task_id, message, (oldest.task,)))
    return found


def _end(lifetime: TaskLifetime) -> float:
    return float("inf") if lifetime.finished is None else lifetime.finished


@invariant("L4", "first claims with due times")
def on_time(history: History) -> list[Violation]:
    """Without faults, every first attempt starts on time.

    It starts within the limit after the task was due, unless the task was cancelled before.
    """
    allowed = allowed_seconds(history, "L4")
    found: list[Violation] = []
    for lifetime in history.view(lifetimes):
        events = history.events.get(lifetime.task.task_id, ())
        begun = next((e for e in events if e.reason in {Reason.CLAIMED, Reason.CANCELLED}), None)
        due = max(history.seconds(lifetime.task.run_at), history.seconds(lifetime.task.created_at))
        late = history.seconds(begun.at) - due if begun else float("inf")
        if late > allowed:
            how = f"{late:.2f} s late" if begun else "never"
            message = f"started {how} ({allowed:g} s allowed)"
            evidence = (lifetime.task,) if begun is None else (lifetime.task, begun)
            found.append(Violation("L4", lifetime.task.task_id, message, evidence))
    return found
