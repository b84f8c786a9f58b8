"""Derive the spans that a correct system emits for a handmade run (``specimen``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

from life import EPOCH, Life
from specimen import Specimen

from chaos.checker.invariants.traces import attempt_span_id
from chaos.history.history import History
from chaos.history.records import Event, Op, Record, SqlEffect, TaskRow, parse_instant
from chaos.history.spans import Span, SpanLink
from holdfast.model.lifecycle import Reason, State


def trace_id(task_id: str) -> str:
    return sha256(task_id.encode()).hexdigest()[:32]


def create_id(task_id: str) -> str:
    return sha256(f"create {task_id}".encode()).hexdigest()[:16]


def traced(run: Specimen, *, sampled: bool = True) -> list[Record]:
    """Return all records of the run, including its spans."""
    spans = [span for life in run.lives for span in TaskSpans(run, life).generate()]
    rows = [_with_context(r, sampled=sampled) for r in run.all_records()]
    return [*rows, *(spans if sampled else ())]


def history(run: Specimen, *more: Record) -> History:
    """Return the traced history of a run, with ``more`` records that do not belong there."""
    return History([*traced(run), *more])


def _with_context(record: Record, *, sampled: bool) -> Record:
    if isinstance(record, TaskRow):
        return replace(record, traceparent=_traceparent(record.task_id, sampled=sampled))
    if isinstance(record, Op) and isinstance(task := record.value.get("task"), dict):
        shown = task | {"traceparent": _traceparent(task["id"], sampled=sampled)}
        return replace(record, value=record.value | {"task": shown})
    return record


def _traceparent(task_id: str, *, sampled: bool) -> str:
    return f"00-{trace_id(task_id)}-{create_id(task_id)}-0{int(sampled)}"


class TaskSpans:
    """Generates the spans of one task, each from the process that made the transition."""

    def __init__(self, run: Specimen, life: Life) -> None:
        self._labels = {f"worker:{i}": label for i, label in run.labels.items()}
        self._life = life
        self._task_id = life.task_id
        self._events = [
            r for r in run.records if isinstance(r, Event) and r.task_id == life.task_id
        ]
        self._rows = {
            r.epoch for r in run.records if isinstance(r, SqlEffect) and r.task_id == life.task_id
        }
        self._batch = SpanLink(trace_id="", span_id="")
        self._made = 0

    def generate(self) -> Iterator[Span]:
        for event in self._events:
            if event.reason == Reason.SUBMITTED:
                yield from self._submitted(event)
            elif event.reason in {Reason.DISPATCHED, Reason.REPUBLISHED}:
                yield from self._sent(event)
            elif event.reason == Reason.CLAIMED:
                yield self._span("queued", "internal", event, epoch=event.epoch)
            elif event.from_state == State.RUNNING and event.to_state != State.RUNNING:
                yield from self._ended(event)

    def _submitted(self, event: Event) -> Iterator[Span]:
        request = self._fresh()
        yield self._span("POST /tasks/", "server", event, span_id=request, parent=None)
        create = create_id(self._task_id)
        yield self._span("create default", "producer", event, span_id=create, parent=request)

    def _sent(self, event: Event) -> Iterator[Span]:
        name = "dispatch" if event.reason == Reason.DISPATCHED else "republish"
        batch = self._span(name, "internal", event, span_id=self._fresh(), parent=None)
        batch = replace(batch, trace_id=batch.span_id * 2)
        self._batch = SpanLink(trace_id=batch.trace_id, span_id=batch.span_id)
        yield batch
        send = self._span("send default", "producer", event, epoch=event.epoch)
        yield replace(send, links=(self._batch,))

    def _ended(self, event: Event) -> Iterator[Span]:
        epoch = event.epoch - 1
        links = [self._previous(epoch)] if epoch > 1 else []
        by_worker = event.actor.startswith("worker:")
        links += [self._batch] if by_worker else []
        span_id = attempt_span_id(self._task_id, epoch)
        span = self._span("process default", "consumer", event, epoch=epoch, span_id=span_id)
        outcome = span.attributes | {"holdfast.outcome": Reason(event.reason).text}
        yield replace(span, links=tuple(links), attributes=outcome)
        # The handler's earlier call, whose span its worker emits.
        who = self._labels[f"worker:{self._life.claimed_by[epoch]}"]
        call = self._span("POST", "client", event, parent=span_id)
        yield replace(call, service="holdfast-worker", instance=who)
        if by_worker:
            yield self._span("finish", "internal", event, parent=span_id)
        if epoch in self._rows:
            within = self._span("transaction", "client", event, parent=span_id)
            yield within
            for name in ("INSERT", "COMMIT"):
                yield self._span(name, "client", event, parent=within.span_id)

    def _previous(self, epoch: int) -> SpanLink:
        return SpanLink(
            trace_id=trace_id(self._task_id), span_id=attempt_span_id(self._task_id, epoch - 2)
        )

    def _span(
        self,
        name: str,
        role: Any,
        event: Event,
        *,
        epoch: int | None = None,
        span_id: str | None = None,
        parent: str | None = "create",
    ) -> Span:
        actor = event.actor
        at = self._seconds(event)
        known: dict[str, Any] = {"holdfast.task.id": self._task_id}
        return Span(
            name=name,
            role=role,
            trace_id=trace_id(self._task_id),
            span_id=span_id or self._fresh(),
            parent_span_id=create_id(self._task_id) if parent == "create" else parent,
            service=f"holdfast-{actor.partition(':')[0]}",
            instance=self._labels.get(actor, actor.partition(":")[2]),
            start=at,
            end=at,
            status="unset",
            attributes=known | ({} if epoch is None else {"holdfast.epoch": epoch}),
        )

    def _seconds(self, event: Event) -> float:
        return (parse_instant(event.at) - EPOCH).total_seconds()

    def _fresh(self) -> str:
        self._made += 1
        return sha256(f"{self._task_id} {self._made}".encode()).hexdigest()[:16]
