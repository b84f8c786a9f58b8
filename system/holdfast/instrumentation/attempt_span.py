"""The span of one attempt, and the spans below it while it runs in this process.

The process that ends the attempt in the database emits its span. The span's id is derived from task
and epoch: if this process dies, the scheduler that reclaims the attempt emits the span, and the
spans below it still have their parent.
"""

from __future__ import annotations

import contextvars
import time
from contextlib import AbstractContextManager, nullcontext
from uuid import UUID

from opentelemetry import context as variables
from opentelemetry import trace
from opentelemetry.trace import SpanContext, SpanKind

from holdfast.instrumentation import attributes
from holdfast.model.claim import AttemptRef
from holdfast.model.lifecycle import Reason, State
from holdfast.telemetry import traceparent
from holdfast.telemetry.trace_context import (
    Attributes,
    FinishedSpan,
    TimedEvent,
    attempt_span_id,
    named_child,
)
from holdfast.telemetry.tracing import Tracing


class AttemptSpan:
    """The span of an attempt whose trace is recorded."""

    def __init__(
        self,
        tracing: Tracing,
        attempt: AttemptRef,
        create: SpanContext,
        worker_id: UUID,
        *,
        batch: SpanContext | None = None,
        began: int | None = None,
    ) -> None:
        """Start the span at ``began`` (nanoseconds since 1970), by default now.

        ``create`` is the context in the task's row, ``batch`` that of the hint.
        """
        self.context = attempt_context(create, attempt.task_id, attempt.epoch)
        self._tracing = tracing
        self._create = create
        self._links = links_of(create, attempt.task_id, attempt.epoch, batch)
        self._name = f"process {attempt.queue}"
        self._task_attributes = attributes.task_attributes(attempt)
        self._attributes = {
            **attributes.messaging("process", attempt.queue, attempt),
            "holdfast.task.name": attempt.name,
            "holdfast.worker.id": str(worker_id),
        }
        self._began = time.time_ns() if began is None else began
        self._events = [TimedEvent("claimed", self._began)]

    @property
    def traceparent(self) -> str:
        """The traceparent of the current span, else of the attempt."""
        current = trace.get_current_span().get_span_context()
        return traceparent.write(current if current.is_valid else self.context)

    def event(self, name: str) -> None:
        """Add an event at the current time."""
        self._events.append(TimedEvent(name, time.time_ns()))

    def inside(self) -> contextvars.Context:
        """Return a context for the handler, in which new spans are children of this attempt."""
        inside = contextvars.copy_context()
        span = trace.NonRecordingSpan(self.context)
        inside.run(variables.attach, trace.set_span_in_context(span, variables.Context()))
        return inside

    def span(
        self, name: str, attributes: Attributes, kind: SpanKind
    ) -> AbstractContextManager[trace.Span]:
        """Open a child span around a block of the handler."""
        return self._tracing.span(name, kind, attributes)

    def queued(self, since: int, until: int) -> None:
        """Record how long the task was QUEUED, by the database's clock, in nanoseconds."""
        self._below(self._create, "queued", since, until)

    def finished(self, began: int) -> None:
        """Record the finish statement, sent at ``began`` and answered now."""
        self._below(self.context, "finish", began, time.time_ns())

    def refused(self) -> None:
        """Record that the fence refused the finish: another process has ended the attempt."""
        now = time.time_ns()
        self._below(self.context, "stale write refused", now, now, error="stale write")

    def ended(
        self, reason: Reason, state: State | None, *, delay_seconds: float, error: str | None
    ) -> None:
        """Emit the span of the ended attempt; ``state`` is the resulting state of the task."""
        now = time.time_ns()
        self._tracing.record(
            FinishedSpan(
                self._name,
                self.context,
                self._create,
                self._began,
                now,
                SpanKind.CONSUMER,
                {**self._attributes, "holdfast.outcome": reason.text},
                links=self._links,
                events=(*self._events, *ends_as(state, now, reason.text, delay_seconds)),
                error=error,
            )
        )

    def _below(
        self, parent: SpanContext, name: str, start: int, end: int, error: str | None = None
    ) -> None:
        child = self._tracing.child(parent)
        self._tracing.record(
            FinishedSpan(
                name, child, parent, start, end, attributes=self._task_attributes, error=error
            )
        )


def child_span(
    attempt: AttemptSpan | None,
    name: str,
    attributes: Attributes,
    kind: SpanKind = SpanKind.INTERNAL,
) -> AbstractContextManager[trace.Span]:
    """Open a span below the current one, or a non-recording one without ``attempt``."""
    if attempt is None:
        return nullcontext(trace.INVALID_SPAN)
    return attempt.span(name, attributes, kind)


def attempt_context(create: SpanContext, task_id: UUID, epoch: int) -> SpanContext:
    """Return the context of an attempt's span; ``epoch`` is the odd epoch of its claim."""
    return named_child(create, attempt_span_id(task_id, epoch))


def links_of(
    create: SpanContext, task_id: UUID, epoch: int, batch: SpanContext | None
) -> tuple[SpanContext, ...]:
    """Return the links of an attempt's span: to the previous attempt and a scheduler's batch."""
    before = (attempt_context(create, task_id, epoch - 2),) if epoch > 1 else ()
    return (*before, batch) if batch is not None else before


def ends_as(
    state: State | None, at: int, reason: str, delay_seconds: float
) -> tuple[TimedEvent, ...]:
    """Return the event for the effect of an attempt's end on its task, if any."""
    if state is State.SUCCEEDED:
        return (TimedEvent("effect committed", at),)
    if state is State.SCHEDULED:
        return (TimedEvent("retry scheduled", at, {"holdfast.delay_seconds": delay_seconds}),)
    if state is State.FAILED:
        return (TimedEvent("dead letter", at, {"holdfast.reason": reason}),)
    return ()
