"""Compare what was asked with what is stored and answered: S18. O(n)."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.told import Told, differences, shown, told
from chaos.checker.invariants.violation import Violation
from chaos.checker.model import json_value
from chaos.history.history import History
from chaos.history.records import Record
from holdfast.model.lifecycle import Reason


@invariant("S18", "requests with the rows and with the answers to submits")
def stored_as_asked(history: History) -> list[Violation]:
    """A task is stored exactly as it was asked for, in every field, and answered so.

    Limits that were not asked for are those that the handler declares, else those configured; a
    ``run_at`` that was not asked for is the instant of the submit.
    """
    found: list[Violation] = []
    for task in told(history).values():
        found += _row(task)
        found += _answer(history, task)
    return found


def _row(task: Told) -> Iterator[Violation]:
    row, final = task.row, task.final
    wrong = differences(task.stored, shown(row))
    wrong += ["max_attempts"] if row.max_attempts != final.max_attempts else []
    wrong += ["max_losses"] if row.max_losses != final.max_losses else []
    for name in wrong:
        due = getattr(final if name in {"max_attempts", "max_losses"} else task.stored, name)
        message = f"stored with {name} = {shown(row)[name]!r} instead of {due!r}"
        yield Violation("S18", row.task_id, message, (task.submit.invoke, row))


def _answer(history: History, task: Told) -> Iterator[Violation]:
    retried = any(event.reason == Reason.RETRIED for event in task.events)
    for submit in history.submits_by_task[task.row.task_id]:
        answered = submit.value.get("task") if submit.type == "ok" else None
        if not answered or answered["id"] != task.row.task_id:  # S10 reports another id
            continue
        wrong = differences(task.stored, answered)
        same = json_value.equal(answered["max_attempts"], task.stored.max_attempts)
        wrong += [] if retried or same else ["max_attempts"]
        for name in wrong:
            message = f"answered with {name} = {answered[name]!r}, which was not asked for"
            evidence: tuple[Record, ...] = (submit.invoke, task.row)
            yield Violation("S18", task.row.task_id, message, evidence)
