"""Check the log of transitions in database order: S3, S6, S8, S9. Each is O(n)."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.ownership import (
    claimed_from_another_queue,
    claimed_without_lease,
    ended_by_non_owner,
    owned_beyond_slots,
    repeated_end_refused,
)
from chaos.checker.invariants.violation import Violation
from chaos.history.history import History
from chaos.history.records import Event, Record, TaskRow, parse_instant
from holdfast.model.lifecycle import TERMINAL, Reason, State, epoch_step, is_legal

# A statement sets the instants of a row a moment before that of its event, seldom just after it.
_BEFORE_SECONDS = 0.1
_AFTER_SECONDS = 0.001
_ENDS = frozenset(
    {
        Reason.SUCCEEDED,
        Reason.FAILED,
        Reason.TIMED_OUT,
        Reason.DISCARDED,
        Reason.LOST,
        Reason.RELEASED,
    }
)
_RECLAIMED = frozenset({Reason.LOST, Reason.TIMED_OUT, Reason.RELEASED})


@invariant("S3", "claims with the due times of the log")
def not_early(history: History) -> list[Violation]:
    """No attempt starts before the task is due, by the database's clock.

    Every claim is at or after the ``run_at`` of the row and of the submit. S21 has the due times
    after the ends of attempts.
    """
    found: list[Violation] = []
    for task in history.tasks.values():
        asked = [
            str(submit.value["run_at"])
            for submit in history.submits_by_task.get(task.task_id, ())
            if submit.type == "ok" and submit.value.get("run_at") is not None
        ]
        due = max(parse_instant(text) for text in (task.run_at, *asked[:1]))
        for event in history.events.get(task.task_id, ()):
            early = (due - parse_instant(event.at)).total_seconds()
            if event.reason == Reason.CLAIMED and early > 0:
                message = f"claimed {early:.6f} s before it was due"
                found.append(Violation("S3", task.task_id, message, (task, event)))
    return found


@invariant("S6", "each log with the table of the lifecycle, and with the row")
def legal_transitions(history: History) -> list[Violation]:
    """Every transition is legal and logged, in an unbroken order.

    A task's log begins with its submit and has no gap in ``seq``, each transition is in the table
    of ``holdfast.model.lifecycle``, and the row agrees with the last event: it is finished since
    that, if that led to a terminal state.
    """
    found: list[Violation] = []
    for task_id, events in history.events.items():
        found += _steps(task_id, events)
        task = history.tasks.get(task_id)
        if task is None:
            message = "has events, but no row in the final read"
            found.append(Violation("S6", task_id, message, events[-1:]))
        else:
            found += _row_ends_log(task, events[-1])
    silent = history.tasks.keys() - history.events.keys()
    for task_id in sorted(silent):
        row = history.tasks[task_id]
        found.append(Violation("S6", task_id, "has a row, but no events", (row,)))
    return found


def _steps(task_id: str, events: tuple[Event, ...]) -> Iterator[Violation]:
    state: str | None = None
    for place, event in enumerate(events, start=1):
        evidence = events[max(0, place - 2) : place]
        if event.seq != place:
            yield Violation("S6", task_id, f"event {place} has seq {event.seq}", evidence)
            return
        if event.from_state != state:
            message = f"seq {event.seq} comes from {event.from_state}, but the task was {state}"
            yield Violation("S6", task_id, message, evidence)
        if not _in_table(event):
            message = f"{event.from_state} -> {event.to_state} ({event.reason}) is not legal"
            yield Violation("S6", task_id, message, evidence)
        state = event.to_state


def _in_table(event: Event) -> bool:
    try:
        source = None if event.from_state is None else State(event.from_state)
        return is_legal(source, State(event.to_state), Reason(event.reason))
    except ValueError:
        return False


def _row_ends_log(task: TaskRow, last: Event) -> Iterator[Violation]:
    row = (task.state, task.seq, task.epoch, task.attempt)
    end = (last.to_state, last.seq, last.epoch, last.attempt)
    if row != end:
        message = f"the row has (state, seq, epoch, attempt) = {row}, its log ends with {end}"
        yield Violation("S6", task.task_id, message, (last, task))
    finished = last.at if last.to_state in TERMINAL else None
    if not _about(task.finished_at, finished):
        message = f"the row has finished_at = {task.finished_at}, by its log it is {finished}"
        yield Violation("S6", task.task_id, message, (last, task))


def _about(instant: str | None, event: str | None) -> bool:
    """Return whether a statement may have set this instant just before that of its event."""
    if instant is None or event is None:
        return instant == event
    before = (parse_instant(event) - parse_instant(instant)).total_seconds()
    return -_AFTER_SECONDS <= before <= _BEFORE_SECONDS


@invariant("S8", "epochs of the log, the ledger and the refused writes")
def epochs_fence(history: History) -> list[Violation]:
    """The epoch fences: it grows exactly with ownership, and only stale writes are refused.

    The epoch starts at 0 and grows by 1 on entering and on leaving RUNNING, and nowhere else (so
    it is odd exactly in RUNNING, which the table CHECKs). Every effect carries the epoch and
    attempt of the success that wrote it. No write of the epoch's owner is refused, and neither is
    a repeated end of an attempt by the worker that ended it.
    """
    found: list[Violation] = []
    for task_id, events in history.events.items():
        epoch = 0
        for event in events:
            due = epoch + _epoch_step(event)
            if event.epoch != due:
                message = f"{event.reason} has epoch {event.epoch}, not {due}"
                found.append(Violation("S8", task_id, message, (event,)))
            epoch = event.epoch
    for task in history.tasks.values():
        if (task.epoch % 2 == 1) != (task.state == State.RUNNING):
            message = f"{task.state} under epoch {task.epoch}: odd means owned"
            found.append(Violation("S8", task.task_id, message, (task,)))
    found += _effects_under_epoch(history)
    found += repeated_end_refused(history)
    for task_id, writes in history.stale_writes.items():
        for write in writes:
            if write.state_found == State.RUNNING and write.epoch_found == write.epoch:
                message = f"{write.outcome} under epoch {write.epoch} was refused to its owner"
                found.append(Violation("S8", task_id, message, (write,)))
    return found


def _epoch_step(event: Event) -> int:
    try:
        source = None if event.from_state is None else State(event.from_state)
        return epoch_step(source, State(event.to_state))
    except ValueError:
        return 0  # an unknown state: S6 reports it


def _effects_under_epoch(history: History) -> Iterator[Violation]:
    for task_id, events in history.events.items():
        success = next((e for e in events if e.reason == Reason.SUCCEEDED), None)
        due = (success.epoch, success.attempt) if success else None
        for effect in history.effects.get(task_id, ()):
            written = (effect.epoch, effect.attempt)
            if due is not None and written != due:
                message = f"effect under (epoch, attempt) = {written}, the success has {due}"
                yield Violation("S8", task_id, message, _shown(effect, success))
        for row in history.sql_effects.get(task_id, ()):
            # The handler wrote it while it owned the task; the commit of the row was the success.
            written = (row.epoch + 1, row.attempt)
            if due is not None and written != due:
                message = (
                    f"business row of epoch {row.epoch}, attempt {row.attempt} was committed, "
                    f"but the success has (epoch, attempt) = {due}"
                )
                yield Violation("S8", task_id, message, _shown(row, success))


def _shown(*records: Record | None) -> tuple[Record, ...]:
    return tuple(record for record in records if record is not None)


@invariant("S9", "claims and ends with incarnations, their leases and their queues")
def single_owner(history: History) -> list[Violation]:
    """An attempt has one owner; only the owner or a scheduler ends it; the dead claim nothing.

    A claim is made by a known incarnation, on a task without an owner, of a queue that it was
    given. The attempt is ended by that incarnation or reclaimed by a scheduler. No other
    incarnation runs it, none owns more attempts than it has slots, and none claims after its lease
    was over or it was marked dead.
    """
    found = [
        *ended_by_non_owner(history),
        *owned_beyond_slots(history),
        *claimed_without_lease(history),
        *claimed_from_another_queue(history),
    ]
    for task_id, events in history.events.items():
        claim: Event | None = None
        for event in events:
            wrong = _ownership(history, claim, event)
            if wrong:
                found.append(Violation("S9", task_id, wrong, _shown(claim, event)))
            if event.reason == Reason.CLAIMED:
                claim = event
            elif event.reason in _ENDS:
                claim = None
    return found


def _ownership(history: History, claim: Event | None, event: Event) -> str | None:
    """Return what is wrong with ``event`` while ``claim`` is open; None if nothing is."""
    role, _, worker_id = event.actor.partition(":")
    actor, owner = history.actor(event.actor), history.actor(claim.actor) if claim else ""
    if event.reason == Reason.CLAIMED:
        if claim is not None:
            return f"claimed by {actor} while {owner} owns it"
        if role != "worker" or worker_id not in history.workers:
            return f"claimed by {actor}, which is not a known incarnation of a worker"
    if event.reason in _ENDS:
        if claim is None:
            return f"{actor} ended an attempt ({event.reason}) that had no owner"
        reclaimed = event.reason in _RECLAIMED and role == "scheduler"
        own = event.actor == claim.actor and event.reason != Reason.LOST
        if not (reclaimed or own):
            return f"{actor} ended ({event.reason}) an attempt of {owner}"
    return None
