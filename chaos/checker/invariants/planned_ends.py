"""Check the ends of attempts against the steps of their payloads: S15, S16. Each is O(n)."""

from __future__ import annotations

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.violation import Violation
from chaos.history.history import History
from chaos.history.records import Event, TaskRow
from chaos.tasks.steps import FAILING, TIMING_OUT, does
from holdfast.model.lifecycle import Reason, State

# Ends that count against max_attempts.
_COUNTED = frozenset({Reason.FAILED, Reason.TIMED_OUT})
# The steps that plan an end which dead-letters a task at once, or after max_losses of them.
_PLANNED = {Reason.LOST: frozenset({"kill"}), Reason.DISCARDED: frozenset({"discard"})}


@invariant("S15", "dead letters with what the payloads make fail")
def dead_letter_exact(history: History) -> list[Violation]:
    """Exactly the tasks whose payload makes them fail are dead-lettered.

    A task is dead-lettered only by attempts that its payload makes fail: by a discard, by losses
    that its own handler caused, or by failures and timeouts of which each was planned. It succeeds
    only by an attempt that was not made to fail. One retried by hand may fail once more.
    """
    found: list[Violation] = []
    for task in history.tasks.values():
        events = history.events.get(task.task_id, ())
        message = _wrong_end(task, events)
        if message:
            found.append(Violation("S15", task.task_id, message, (task, *events[-1:])))
    return found


def _wrong_end(task: TaskRow, events: tuple[Event, ...]) -> str:
    """Return what is wrong with the end of a task by its payload; "" if it is right."""
    step = does(task.payload, task.attempt)
    if task.state == State.SUCCEEDED and step in FAILING:
        return f"SUCCEEDED, but its payload makes attempt {task.attempt} {step}"
    if task.state == State.FAILED and (unplanned := _unplanned(events, task)):
        return f"dead-lettered, but its payload does not plan {unplanned}"
    return ""


def _unplanned(events: tuple[Event, ...], task: TaskRow) -> str:
    """Return the first end behind a dead letter that its payload does not plan; "" without one."""
    if not events or any(event.reason == Reason.RETRIED for event in events):
        return ""
    last = events[-1]
    behind = _COUNTED if last.reason in _COUNTED else {last.reason}
    planned = _PLANNED.get(Reason(last.reason), FAILING | TIMING_OUT)
    for event in events:
        if event.reason in behind and does(task.payload, event.attempt) not in planned:
            return f"attempt {event.attempt} ({event.reason})"
    return ""


@invariant("S16", "ends of attempts with what the payloads make them do")
def no_attempt_wasted(history: History) -> list[Violation]:
    """No attempt is wasted: none is lost, and none times out unless its payload makes it hang.

    Workers that stop release their attempts instead of losing them.
    """
    return [
        Violation("S16", task_id, f"attempt {event.attempt} {event.reason}", (event,))
        for task_id, events in history.events.items()
        for event in events
        if event.reason in {Reason.LOST, Reason.TIMED_OUT} and not _planned_timeout(history, event)
    ]


def _planned_timeout(history: History, event: Event) -> bool:
    task = history.tasks.get(event.task_id)
    hangs = task is not None and does(task.payload, event.attempt) in TIMING_OUT
    return hangs and event.reason == Reason.TIMED_OUT
