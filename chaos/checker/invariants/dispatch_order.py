"""Check the order in which tasks of one queue are dispatched: S25. O(n log n)."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.disturbance import Disturbances, disturbances
from chaos.checker.invariants.due_times import Due, dues_by_task
from chaos.checker.invariants.told import Told, told
from chaos.checker.invariants.violation import Violation
from chaos.history.history import History
from chaos.history.records import Event
from holdfast.model.lifecycle import Reason, State

# The smaller one is dispatched first: higher priority, then due earlier. Of two that are due at the
# same instant the older id comes first; the model knows due times less exactly than that.
_Rank: TypeAlias = tuple[int, datetime]


@dataclass(frozen=True, slots=True)
class _Wait:
    """The seconds in which a due task was SCHEDULED and no statement can have locked it.

    ``rank``: with its latest possible due time.
    """

    task_id: str
    since: float
    until: float
    rank: _Rank
    event: Event


@dataclass(frozen=True, slots=True)
class _Dispatch:
    """One dispatch; ``rank``: with the earliest possible due time of its task."""

    at: float
    rank: _Rank
    event: Event


@invariant("S25", "the order of dispatches with priorities and due times")
def in_order_of_rank(history: History) -> list[Violation]:
    """Within one queue nothing is dispatched while a due task that outranks it waits.

    A task outranks another by a higher priority, or by the same one and an earlier due time. It
    waits if it is SCHEDULED and due, and has been in no transition since longer than a statement
    may take, and remains so for as long. Statements in that interval, of the cancel or of the
    retry of a client, an end that the fence refused, or the claim by a hint of an earlier attempt,
    lock the task, and a dispatch skips locked rows. While faults disturb, the interval contains
    them.

    Excused: a dispatch of another scheduler within that interval, of a task that outranks the
    waiting one. Such a statement locks as many tasks of each priority as there is room, but takes
    only the best of them; until its commit the others are skipped. (Of the same scheduler only
    while faults disturb: then its last statement may be under way still.) So a task is overtaken by
    at most one batch of each other scheduler, and only while that batch is stored.
    """
    disturbed = disturbances(history)
    dispatches: defaultdict[str, list[_Dispatch]] = defaultdict(list)
    waits: defaultdict[str, list[_Wait]] = defaultdict(list)
    touched = _touched(history)
    for task in told(history).values():
        queue, dues = task.stored.queue, dues_by_task(history)[task.row.task_id]
        dispatches[queue] += _dispatches(history, task, dues)
        gaps = touched.get(task.row.task_id, [])
        waits[queue] += _waits(history, task, dues, gaps, disturbed)
    found: list[Violation] = []
    for queue, made in dispatches.items():
        made.sort(key=lambda each: each.at)
        for dispatch, wait in _overtaken(made, waits[queue], disturbed):
            if not _excused(dispatch, wait, made, disturbed):
                late = dispatch.at - wait.since
                message = f"dispatched before task {wait.task_id} of priority {-wait.rank[0]}, "
                message += f"which had waited in queue {queue} for {late:.3f} s"
                evidence = (wait.event, dispatch.event)
                found.append(Violation("S25", dispatch.event.task_id, message, evidence))
    return found


def _dispatches(history: History, task: Told, dues: Sequence[Due]) -> Iterator[_Dispatch]:
    for event in task.events:
        due = next((each for each in reversed(dues) if each.event.seq < event.seq), None)
        if event.reason == Reason.DISPATCHED and due is not None:
            rank = (-task.stored.priority, due.earliest)
            yield _Dispatch(history.seconds(event.at), rank, event)


def _waits(
    history: History,
    task: Told,
    dues: Sequence[Due],
    gaps: list[tuple[float, float]],
    disturbed: Disturbances,
) -> Iterator[_Wait]:
    # An open task is not known to wait any longer than the log.
    last = history.phases.get("drained", 0.0)
    hints_left = False
    for event, following in zip(task.events, (*task.events[1:], None), strict=True):
        until = history.seconds(following.at) if following else last
        hints_left |= event.reason in {Reason.REPUBLISHED, Reason.LOST}
        due = next((each for each in dues if each.event is event), None)
        if due is None or due.latest is None or event.to_state != State.SCHEDULED:
            continue
        if event.reason != Reason.SUBMITTED and (hints_left or disturbed.any_before(until)):
            continue
        since = max(history.seconds(event.at), history.seconds(due.latest.isoformat()))
        rank = (-task.stored.priority, due.latest)
        for start, end in _without(gaps, since, until):
            yield _Wait(task.row.task_id, start, end, rank, event)


def _without(
    gaps: list[tuple[float, float]], since: float, until: float
) -> Iterator[tuple[float, float]]:
    """Yield the parts of an interval outside the gaps."""
    for start, end in sorted(gaps):
        if since < min(start, until):
            yield since, min(start, until)
        since = max(since, end)
    if since < until:
        yield since, until


def _touched(history: History) -> Mapping[str, list[tuple[float, float]]]:
    """Return when a statement that leaves no transition may have locked a task."""
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for task_id, writes in history.stale_writes.items():
        instants = [history.seconds(write.at) for write in writes]
        found[task_id] += [(at, at) for at in instants]
    for pair in (*history.of("cancel"), *history.of("retry")):
        over = pair.completion.at if pair.completion else float("inf")
        found[pair.invoke.value["task_id"]].append((pair.invoke.at, over))
    return found


def _overtaken(
    dispatches: Sequence[_Dispatch], waits: list[_Wait], disturbed: Disturbances
) -> Iterator[tuple[_Dispatch, _Wait]]:
    """Yield each dispatch with the best task that waited meanwhile, if that outranks it."""
    waits.sort(key=lambda wait: wait.since)
    waiting: list[tuple[_Rank, int]] = []
    begun = 0
    for dispatch in dispatches:
        since, until = disturbed.around(dispatch.at)
        while begun < len(waits) and waits[begun].since <= since:
            heapq.heappush(waiting, (waits[begun].rank, begun))
            begun += 1
        # Both ends of the interval only grow, so what ends within it never counts again.
        while waiting and waits[waiting[0][1]].until < until:
            heapq.heappop(waiting)
        if waiting and waiting[0][0] < dispatch.rank:
            yield dispatch, waits[waiting[0][1]]


def _excused(
    dispatch: _Dispatch, wait: _Wait, dispatches: Sequence[_Dispatch], disturbed: Disturbances
) -> bool:
    """Return whether another statement may have held the lock of the waiting task."""
    since, until = disturbed.around(dispatch.at)
    unsettled = disturbed.disturbed(dispatch.at)
    first = bisect_left(dispatches, since, key=lambda each: each.at)
    last = bisect_right(dispatches, until, key=lambda each: each.at)
    return any(
        other.rank <= wait.rank and (unsettled or other.event.actor != dispatch.event.actor)
        for other in dispatches[first:last]
    )
