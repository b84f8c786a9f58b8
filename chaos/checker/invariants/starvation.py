"""Check that the load of one queue does not delay another: S26. O(n log n)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.disturbance import span
from chaos.checker.invariants.due_times import dues_by_task
from chaos.checker.invariants.told import Told, told
from chaos.checker.invariants.violation import Violation
from chaos.checker.queue_bounds import next_start, queued_start, readers
from chaos.history.history import History
from chaos.history.records import Event
from chaos.scenario.scenario import Scenario
from holdfast.model.lifecycle import Reason, State


@dataclass(frozen=True, slots=True)
class _Wait:
    """A task from the second at which it is due, or dispatched, until it starts or is cancelled."""

    task_id: str
    since: float
    until: float
    event: Event


@invariant("S26", "the time from due to start with a bound computed for the queue")
def queues_share_workers(history: History) -> list[Violation]:
    """A queue starts its due tasks within its own bound, however busy the other queues are.

    While a task of the queue is due, another one starts within the first bound of
    ``chaos.checker.queue_bounds``; each dispatched task starts within the second one. The bounds
    hold without faults: a fault of a worker exempts the queues that it reads, any other fault all
    of them, until a statement bound after its end.
    """
    scenario = Scenario.model_validate(history.run.scenario)
    tasks: defaultdict[str, list[Told]] = defaultdict(list)
    for task in told(history).values():
        tasks[task.stored.queue].append(task)
    return [
        violation
        for queue, members in tasks.items()
        if readers(scenario, queue)
        for violation in (
            *_paused(history, scenario, queue, members),
            *_delayed(history, scenario, queue, members),
        )
    ]


def _paused(
    history: History, scenario: Scenario, queue: str, tasks: Sequence[Told]
) -> Iterator[Violation]:
    """Report due tasks while which no task of their queue started."""
    allowed = next_start(scenario).seconds
    exempt = _exempt(history, scenario, queue)
    starts = sorted(
        history.seconds(event.at)
        for task in tasks
        for event in task.events
        if event.reason == Reason.CLAIMED
    )
    waits = [wait for task in tasks for wait in _waits(history, task, State.SCHEDULED)]
    for wait, stalled in _stalled(waits, starts, allowed, exempt):
        message = f"was due in queue {queue}, of which no task started for {stalled:.2f} s "
        message += f"({allowed:g} s allowed)"
        yield Violation("S26", wait.task_id, message, (wait.event,))


def _delayed(
    history: History, scenario: Scenario, queue: str, tasks: Sequence[Told]
) -> Iterator[Violation]:
    """Report tasks that started too late after their dispatch."""
    allowed = queued_start(scenario, queue).seconds
    exempt = _exempt(history, scenario, queue)
    for task in tasks:
        for wait in _waits(history, task, State.QUEUED):
            waited = wait.until - wait.since
            if waited > allowed and not _during(exempt, wait.since, wait.since + allowed):
                message = f"waited {waited:.2f} s in queue {queue} after its dispatch "
                message += f"({allowed:g} s allowed)"
                yield Violation("S26", wait.task_id, message, (wait.event,))


def _waits(history: History, task: Told, state: State) -> Iterator[_Wait]:
    """Yield the waits of a task that begin with its entering ``state``."""
    dues = {due.event.seq: due for due in dues_by_task(history)[task.row.task_id]}
    for event in task.events:
        if event.to_state != state or event.from_state == state:
            continue
        since = history.seconds(event.at)
        if state is State.SCHEDULED:
            due = dues.get(event.seq)
            if due is None or due.latest is None:
                continue
            since = max(since, history.seconds(due.latest.isoformat()))
        ended = (
            history.seconds(each.at)
            for each in task.events
            if each.seq > event.seq and each.reason in {Reason.CLAIMED, Reason.CANCELLED}
        )
        until = next(ended, history.phases.get("drained", 0.0))
        yield _Wait(task.row.task_id, since, until, event)


def _stalled(
    waits: Sequence[_Wait],
    starts: Sequence[float],
    allowed: float,
    exempt: Sequence[tuple[float, float]],
) -> Iterator[tuple[_Wait, float]]:
    """Yield the waits that began, or went on, for longer than allowed without any start."""
    pauses = [
        (start, following)
        for start, following in zip(starts, [*starts[1:], math.inf], strict=True)
        if following - start > allowed
    ]
    for wait in waits:
        after = bisect_right(starts, wait.since)
        first = (wait.since, starts[after] if after < len(starts) else math.inf)
        place = bisect_right(pauses, first)
        for start, following in (first, *pauses[place:]):
            stalled = min(following, wait.until) - start
            if stalled > allowed and not _during(exempt, start, start + allowed):
                yield wait, stalled
                break


def _exempt(history: History, scenario: Scenario, queue: str) -> list[tuple[float, float]]:
    """Return the intervals in which faults may delay the tasks of a queue."""
    concerned = readers(scenario, queue)
    others = {*scenario.workers} - {*concerned}
    return [
        span(history, records)
        for records in history.faults.values()
        if not {target.partition("->")[0] for each in records for target in each.targets} <= others
    ]


def _during(intervals: Sequence[tuple[float, float]], start: float, end: float) -> bool:
    return any(first <= end and start <= last for first, last in intervals)
