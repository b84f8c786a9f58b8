"""Compare due times with what ends of attempts and back-offs make of them: S21. O(n)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.told import Attempt, Told, configuration, told
from chaos.checker.invariants.violation import Violation
from chaos.checker.model.due import NOW, Delay, after_end, rest
from chaos.checker.model.life import Ending
from chaos.history.history import History
from chaos.history.records import Event, Record, parse_instant
from chaos.tasks.declarations import SINK_RETRY_SECONDS
from holdfast.model.lifecycle import Reason

# A statement computes a due time a moment before the instant of its event, seldom just after it.
_BEFORE = timedelta(seconds=0.1)
_AFTER = timedelta(milliseconds=1)
_UNHANDLED = "UnknownName"


@dataclass(frozen=True, slots=True)
class Due:
    """When a task is due from this event on, at the earliest and at the latest."""

    event: Event
    earliest: datetime
    latest: datetime | None

    def holds(self, due_at: datetime) -> bool:
        return self.earliest <= due_at and (self.latest is None or due_at <= self.latest)


@invariant("S21", "due times of log and row with the delays that the model computes")
def due_as_declared(history: History) -> list[Violation]:
    """A task is due as asked, after a failure by its handler's back-off, and else immediately.

    ``Retry(after=...)`` is obeyed exactly; losses and releases neither delay a task nor raise the
    back-off of its failures, but each release because the worker has no handler for the task makes
    it rest for twice as long as the one before, up to the configured limit. Nothing is dispatched
    earlier, and no row or answer shows another ``due_at``.
    """
    answers = _answers(history)
    found: list[Violation] = []
    for task in told(history).values():
        task_id = task.row.task_id
        dues = dues_by_task(history)[task_id]
        for message, event in _early(task, dues):
            found.append(Violation("S21", task_id, message, (event,)))
        views = [(task.row.epoch, task.row.due_at, "the row", task.row), *answers[task_id]]
        for epoch, due_at, where, record in views:
            known = _at_epoch(dues, epoch)
            if known and not any(due.holds(parse_instant(due_at)) for due in known):
                message = f"{where} has due_at = {due_at} after {known[-1].event.reason}, instead "
                message += f"of {known[-1].earliest} to {known[-1].latest}"
                found.append(Violation("S21", task_id, message, (known[-1].event, record)))
    return found


def dues_by_task(history: History) -> Mapping[str, list[Due]]:
    """Return when each task was due, from its submit and from each event that scheduled it."""
    return history.view(_dues_by_task)


def _dues_by_task(history: History) -> dict[str, list[Due]]:
    return {task_id: list(_dues(history, task)) for task_id, task in told(history).items()}


def _dues(history: History, task: Told) -> Iterator[Due]:
    ends = {attempt.end.seq: attempt for attempt in task.attempts()}
    unhandled = 0
    for event in task.events:
        at = parse_instant(event.at)
        if event.reason == Reason.SUBMITTED:
            due = max(task.stored.run_at or at, at)
            yield Due(event, due - _AFTER, due + _AFTER)
        elif event.reason == Reason.RETRIED:
            yield _due(event, NOW)
        elif event.to_state == "SCHEDULED" and event.seq in ends:
            attempt = ends[event.seq]
            unhandled += attempt.error.get("type") == _UNHANDLED
            yield _due(event, _delay(history, task, attempt, unhandled))


def _due(event: Event, delay: Delay) -> Due:
    at = parse_instant(event.at)
    known = delay.latest < timedelta.max.total_seconds()
    latest = at + timedelta(seconds=delay.latest) + _AFTER if known else None
    return Due(event, at + timedelta(seconds=delay.earliest) - _BEFORE, latest)


def _delay(history: History, task: Told, attempt: Attempt, unhandled: int) -> Delay:
    error = attempt.error.get("type")
    asked: float | None = None
    if error == _UNHANDLED:
        configured = configuration(history)
        return rest(configured.unknown_name_seconds, configured.unknown_name_max_seconds, unhandled)
    if error == "Retry" and attempt.kind is Ending.FAILED and task.declared is not None:
        # Without a step to retry, S20 knows the only reason: the sink did not respond.
        asked = task.step(attempt.number).get("after", SINK_RETRY_SECONDS)
    elif error == "Retry":
        return Delay(0.0, float("inf"))
    return after_end(
        attempt.kind,
        declared=task.declared,
        failures=attempt.life.failures,
        asked_seconds=asked,
        by_scheduler=attempt.by_scheduler,
    )


def _early(task: Told, dues: list[Due]) -> Iterator[tuple[str, Event]]:
    """Yield each dispatch that came before the task was due."""
    for event in task.events:
        if event.reason != Reason.DISPATCHED:
            continue
        due = next((each for each in reversed(dues) if each.event.seq < event.seq), None)
        early = (due.earliest - parse_instant(event.at)).total_seconds() if due else 0.0
        if due is not None and early > 0:
            yield f"dispatched {early:.3f} s before it was due after {due.event.reason}", event


def _at_epoch(dues: list[Due], epoch: int) -> list[Due]:
    """Return what a task shows as its due time under this epoch, latest last.

    A retry by hand leaves the epoch as it is: then it may be the one before, too.
    """
    known = [due for due in dues if due.event.epoch <= epoch]
    retried = known and known[-1].event.reason == Reason.RETRIED and known[-1].event.epoch == epoch
    return known[-2:] if retried else known[-1:]


def _answers(history: History) -> Mapping[str, list[tuple[int, str, str, Record]]]:
    """Return the epochs and due times that answers show, by task."""
    found: defaultdict[str, list[tuple[int, str, str, Record]]] = defaultdict(list)
    for operation in history.operations.values():
        record = operation.completion
        if record is None or record.type != "ok":
            continue
        tasks: list[Any] = [record.value.get("task"), *record.value.get("tasks", ())]
        for task in filter(None, tasks):
            where = f"the answer to a {record.op}"
            found[task["id"]].append((task["epoch"], task["due_at"], where, record))
    return found
