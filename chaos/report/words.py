"""Describe each record of a history: its text, its instant, and its source."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from chaos.history.history import History
from chaos.history.records import (
    Effect,
    Event,
    Fault,
    Op,
    Record,
    SinkCall,
    Sometimes,
    SqlEffect,
    StaleWrite,
    TaskRow,
    Worker,
    reason_text,
)
from chaos.history.spans import Span


class Source(StrEnum):
    """Where a record comes from; the page uses the value as a CSS class."""

    CLIENT = "client"
    DATABASE = "database"
    EFFECT = "effect"
    SINK = "sink"
    FENCE = "fence"
    FAULT = "fault"
    READ = "final read"
    SPAN = "span"
    OTHER = "arena"


_SOURCES: Mapping[type[object], Source] = MappingProxyType(
    {
        Op: Source.CLIENT,
        Event: Source.DATABASE,
        Effect: Source.EFFECT,
        SqlEffect: Source.EFFECT,
        SinkCall: Source.SINK,
        StaleWrite: Source.FENCE,
        Fault: Source.FAULT,
        Span: Source.SPAN,
        TaskRow: Source.READ,
    }
)


def instant_of(history: History, record: Record) -> float | None:
    """Return the arena second of a record; None if it has no single instant."""
    if isinstance(record, Op | Fault | SinkCall):
        return record.at
    if isinstance(record, Event | Effect | SqlEffect | StaleWrite):
        return history.seconds(record.at)
    if isinstance(record, Span):
        return record.start
    if isinstance(record, TaskRow):
        return history.phases.get("drained")
    return None


def source_of(record: Record) -> Source:
    """Return where the record comes from."""
    return _SOURCES.get(type(record), Source.OTHER)


def describe(history: History, record: Record) -> str:
    """Describe the record in one line."""
    if isinstance(record, Op):
        return _op(record)
    if isinstance(record, Event):
        return _event(history, record)
    if isinstance(record, Effect | SqlEffect):
        what = "ledger row" if isinstance(record, Effect) else "business row"
        return f"{what}: epoch {record.epoch}, attempt {record.attempt}"
    if isinstance(record, StaleWrite):
        return _stale(history, record)
    return _other(record)


def _other(record: Record) -> str:
    if isinstance(record, SinkCall):
        what = "applied" if record.applied else "suppressed as a duplicate"
        return f"sink call under epoch {record.epoch}: {what}"
    if isinstance(record, TaskRow):
        return (
            f"final read: {record.state}, epoch {record.epoch}, attempt {record.attempt} "
            f"(lost {record.losses}, released {record.handed_back})"
        )
    return _arena(record)


def _op(half: Op) -> str:
    if half.type == "invoke":
        return f"{half.process} invokes {half.op}"
    names = ("status", "answer", "state", "error")
    said = [f"{name} {half.value[name]}" for name in names if half.value.get(name) is not None]
    return f"{half.process} {half.op} is {half.type}: {', '.join(said) or 'no answer'}"


def _event(history: History, event: Event) -> str:
    return (
        f"{event.from_state or '-'} -> {event.to_state} ({reason_text(event.reason)}) by "
        f"{history.actor(event.actor)}; seq {event.seq}, epoch {event.epoch}, "
        f"attempt {event.attempt}"
    )


def _stale(history: History, write: StaleWrite) -> str:
    who = history.actor(f"worker:{write.worker_id}")
    found = f"found {write.state_found} under epoch {write.epoch_found}"
    return f"REFUSED: {reason_text(write.outcome)} under epoch {write.epoch} by {who}; {found}"


def _span(span: Span) -> str:
    outcome = span.attributes.get("holdfast.outcome")
    facts = [f"{(span.end - span.start) * 1000:.1f} ms", span.attributes.get("error.type")]
    facts += [outcome, *(event.name for event in span.events)]
    return f"span {span.name} of {span.instance}: {', '.join(str(each) for each in facts if each)}"


def _arena(record: Record) -> str:
    if isinstance(record, Fault):
        targets = ", ".join(record.targets)
        step = "observed" if record.type == "felt" else record.type
        return f"-- {record.fault} on {targets}: {step} ({record.fault_id})"
    if isinstance(record, Worker):
        end = f", dead: {record.dead_reason}" if record.dead_at else ""
        return f"worker {record.label} ({record.worker_id[-8:]}){end}"
    if isinstance(record, Sometimes):
        return f"{record.name} was {'seen' if record.held else 'not seen'}"
    if isinstance(record, Span):
        return _span(record)
    return f"{record.kind} record"
