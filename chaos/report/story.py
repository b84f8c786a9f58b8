"""The story of one task: what clients, database, sink and faults say about it, in time order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chaos.history import History
from chaos.records import (
    Effect,
    Event,
    Fault,
    Op,
    Record,
    SinkCall,
    SqlEffect,
    StaleWrite,
    Task,
)

# What stays of a long story: its beginning, and this many lines around each piece of evidence.
_OPENING_LINES = 2
_CONTEXT_LINES = 3


@dataclass(frozen=True, slots=True)
class Line:
    """``at`` arena seconds; ``marked``: it is evidence of a violation."""

    at: float
    text: str
    marked: bool


def story(history: History, task_id: str, evidence: tuple[Record, ...] = ()) -> list[str]:
    """Lines in time order; evidence is marked with ``>``, stretches far from it are left out."""
    shown = {id(record) for record in evidence}
    lines = [Line(at, text, id(record) in shown) for at, text, record in _records(history, task_id)]
    lines.sort(key=lambda line: line.at)
    if not lines:
        return ["  (no record of it)"]
    return list(_shortened(_with_faults(history, lines)))


def _records(history: History, task_id: str) -> Iterator[tuple[float, str, Record]]:
    for operation in history.operations.values():
        if _is_about(history, operation.value, task_id):
            for half in (operation.invoke, operation.completion):
                if half is not None:
                    yield half.at, _op(half), half
    yield from _rows(history, task_id)
    for calls in history.sink_calls.values():
        for call in calls:
            if call.task_id == task_id:
                yield call.at, _call(call), call
    task = history.tasks.get(task_id)
    if task is not None and "drained" in history.phases:
        yield history.phases["drained"], _task(task), task


def _rows(history: History, task_id: str) -> Iterator[tuple[float, str, Record]]:
    for event in history.events.get(task_id, ()):
        yield history.seconds(event.at), _event(history, event), event
    rows: tuple[Effect | SqlEffect, ...] = (
        *history.effects.get(task_id, ()),
        *history.sql_effects.get(task_id, ()),
    )
    for row in rows:
        what = "ledger row" if isinstance(row, Effect) else "business row"
        text = f"{what}: epoch {row.epoch}, attempt {row.attempt}"
        yield history.seconds(row.at), text, row
    for write in history.stale_writes.get(task_id, ()):
        yield history.seconds(write.at), _stale(history, write), write


def _is_about(history: History, value: dict[str, object], task_id: str) -> bool:
    if value.get("task_id") == task_id:
        return True
    task = history.tasks.get(task_id)
    return task is not None and task.key is not None and value.get("key") == task.key


def _op(half: Op) -> str:
    if half.type == "invoke":
        return f"{half.process} invokes {half.op}"
    names = ("status", "answer", "state", "error")
    told = [f"{name} {half.value[name]}" for name in names if half.value.get(name) is not None]
    return f"{half.process} {half.op} is {half.type}: {', '.join(told) or 'no answer'}"


def _event(history: History, event: Event) -> str:
    return (
        f"{event.from_state or '-'} -> {event.to_state} ({event.reason}) by "
        f"{history.actor(event.actor)}; seq {event.seq}, epoch {event.epoch}, "
        f"attempt {event.attempt}"
    )


def _stale(history: History, write: StaleWrite) -> str:
    who = history.actor(f"worker:{write.worker_id}")
    found = f"found {write.state_found} under epoch {write.epoch_found}"
    return f"REFUSED: {write.outcome} under epoch {write.epoch} by {who}; {found}"


def _call(call: SinkCall) -> str:
    what = "applied" if call.applied else "suppressed as a duplicate"
    return f"call at the sink under epoch {call.epoch}: {what}"


def _task(task: Task) -> str:
    return (
        f"final read: {task.state}, epoch {task.epoch}, attempt {task.attempt} "
        f"(lost {task.losses}, handed back {task.handed_back})"
    )


def _with_faults(history: History, lines: list[Line]) -> list[Line]:
    """The lines with the faults that began or ended while the task lived."""
    first, last = lines[0].at, lines[-1].at
    faults = [
        Line(record.at, _fault(record), marked=False)
        for records in history.faults.values()
        for record in records
        if record.type != "felt" and first <= record.at <= last
    ]
    return sorted([*lines, *faults], key=lambda line: line.at)


def _fault(record: Fault) -> str:
    return f"-- {record.fault} on {', '.join(record.targets)}: {record.type} ({record.fault_id})"


def _shortened(lines: list[Line]) -> Iterator[str]:
    marks = [place for place, line in enumerate(lines) if line.marked]
    keep = {
        place
        for place in range(len(lines))
        if not marks
        or place < _OPENING_LINES
        or any(abs(place - mark) <= _CONTEXT_LINES for mark in marks)
    }
    left_out = 0
    for place, line in enumerate(lines):
        if place not in keep:
            left_out += 1
            continue
        if left_out:
            yield f"             ... {left_out} more"
            left_out = 0
        yield f"  {'>' if line.marked else ' '} {line.at:8.3f} {line.text}"
    if left_out:
        yield f"             ... {left_out} more"
