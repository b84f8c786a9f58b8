"""Check effects: S1 (at most once), S4 (cancel), S11 (once when SUCCEEDED). Each is O(n)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.violation import Violation, halves
from chaos.history.history import History, Operation
from chaos.history.records import Record, SinkCall, TaskRow
from holdfast.model.lifecycle import State


@invariant(
    "S1", "effects with each other, by key and by task: ledger, business rows, calls of the sink"
)
def effects_at_most_once(history: History) -> list[Violation]:
    """No effect is applied twice.

    A task has at most one ledger row, at most one business row, and at most one call that the sink
    applied. The effect key, of the ledger row and of every call to the sink, is the task's id.
    """
    found: list[Violation] = []
    holders: dict[str, str] = {}
    for task_id, rows in history.effects.items():
        if len(rows) > 1:
            found.append(Violation("S1", task_id, f"{len(rows)} rows in the ledger", rows))
        for row in rows:
            if row.effect_key != task_id:
                message = f"ledger row has the key {row.effect_key} instead of the task's id"
                found.append(Violation("S1", task_id, message, (row,)))
            other = holders.setdefault(row.effect_key, task_id)
            if other != task_id:
                message = f"effect key {row.effect_key} is also in the ledger for {other}"
                found.append(Violation("S1", task_id, message, (row,)))
    return found + list(_outside_ledger(history))


def _outside_ledger(history: History) -> Iterator[Violation]:
    for task_id, business in history.sql_effects.items():
        if len(business) > 1:
            message = f"{len(business)} business rows were committed instead of one"
            yield Violation("S1", task_id, message, business)
    applied: defaultdict[str, list[SinkCall]] = defaultdict(list)
    for calls in history.sink_calls.values():
        for call in calls:
            applied[call.task_id] += [call] if call.applied else []
            if call.key != call.task_id:
                message = f"the sink was called with the key {call.key} instead of the task's id"
                yield Violation("S1", call.task_id, message, (call,))
    for task_id, effects in applied.items():
        if len(effects) > 1:
            message = f"the sink applied {len(effects)} calls of the task"
            yield Violation("S1", task_id, message, tuple(effects))


@invariant("S4", "answers to cancels with the log and the effects")
def cancel_is_final(history: History) -> list[Violation]:
    """The answer to a cancel holds, and a cancelled task has no effect.

    After ``cancelled`` the task stays CANCELLED; after ``requested`` or ``done`` it ends SUCCEEDED
    or CANCELLED; ``too_late`` means that it had ended. A CANCELLED task has no ledger row and no
    business row, and a client asked to cancel it.
    """
    found: list[Violation] = []
    asked: set[str] = set()
    for cancel in history.of("cancel"):
        task_id = str(cancel.value["task_id"])
        if cancel.type != "fail":
            asked.add(task_id)
        task = history.tasks.get(task_id)
        if cancel.type == "ok" and task is not None:
            found += _cancel_answer(history, cancel, task)
    for task in history.tasks.values():
        if task.state != State.CANCELLED:
            continue
        rows: tuple[Record, ...] = (
            *history.effects.get(task.task_id, ()),
            *history.sql_effects.get(task.task_id, ()),
        )
        if rows:
            found.append(
                Violation("S4", task.task_id, "CANCELLED, but its effect was applied", rows)
            )
        if task.task_id not in asked:
            message = "CANCELLED, but no cancel of it was accepted or ended unknown"
            found.append(Violation("S4", task.task_id, message, (task,)))
    return found


def _cancel_answer(history: History, cancel: Operation, task: TaskRow) -> list[Violation]:
    answer = cancel.value.get("answer")
    if answer == "cancelled":
        holds = task.state == State.CANCELLED
    elif answer in {"requested", "done"}:
        holds = task.state != State.FAILED or _retried(history, task)
    elif answer == "too_late":
        ends = {event.to_state for event in history.events.get(task.task_id, ())}
        holds = bool(ends & {State.SUCCEEDED, State.FAILED})
    else:
        message = f"cancel was answered {answer!r}, not cancelled, requested, done or too_late"
        return [Violation("S4", task.task_id, message, halves(cancel))]
    if holds:
        return []
    message = f"cancel was answered {answer}, but the task is {task.state}"
    return [Violation("S4", task.task_id, message, (*halves(cancel), task))]


def _retried(history: History, task: TaskRow) -> bool:
    return any(e.from_state == State.FAILED for e in history.events.get(task.task_id, ()))


@invariant("S11", "final states with the effects")
def effects_match_states(history: History) -> list[Violation]:
    """A SUCCEEDED task has exactly one effect, a FAILED or CANCELLED one has none.

    A SUCCEEDED task has exactly one ledger row, plus exactly one business row (effect ``sql``) or
    at least one applied call (effect ``external``). Any other task has no ledger row and no
    business row; an external call may have been applied (at most once: S1).
    """
    kinds = _kinds(history)
    applied: defaultdict[str, int] = defaultdict(int)
    for calls in history.sink_calls.values():
        for call in calls:
            applied[call.task_id] += call.applied
    found: list[Violation] = []
    for task in history.tasks.values():
        due = int(task.state == State.SUCCEEDED)
        kind = kinds.get(task.task_id, "ledger")
        ledger = history.effects.get(task.task_id, ())
        business = history.sql_effects.get(task.task_id, ())
        wrong: list[str] = []
        if len(ledger) != due:
            wrong.append(f"{len(ledger)} ledger rows")
        if len(business) != (due if kind == "sql" else 0):
            wrong.append(f"{len(business)} business rows")
        calls_due = due if kind == "external" else 0
        too_few = applied[task.task_id] < calls_due
        if too_few or (kind != "external" and applied[task.task_id]):
            wrong.append(f"{applied[task.task_id]} applied calls")
        if wrong:
            message = f"{task.state} with {' and '.join(wrong)}; the kind of its effect is {kind}"
            evidence: tuple[Record, ...] = (task, *ledger, *business)
            found.append(Violation("S11", task.task_id, message, evidence))
    return found


def _kinds(history: History) -> dict[str, str]:
    """Return the kind of effect that the submit asked for, by task."""
    return {
        task_id: str(submits[0].value.get("effect", "ledger"))
        for task_id, submits in history.submits_by_task.items()
    }
