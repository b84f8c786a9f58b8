"""Span attributes and log fields that identify a task, an attempt or a transition.

Span attributes follow OpenTelemetry's conventions for messaging; those without a conventional name
begin with ``holdfast.``.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from opentelemetry.util.types import AttributeValue

from holdfast.model.lifecycle import Reason, State
from holdfast.telemetry import traceparent as trace

# Metric label values for the terminal states of a task.
OUTCOMES: dict[State | None, str] = {
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}


class TaskRef(Protocol):
    """Identifies a task at one epoch; ``traceparent`` is that of the row."""

    @property
    def task_id(self) -> UUID: ...

    @property
    def epoch(self) -> int | None: ...

    @property
    def attempt(self) -> int | None: ...

    @property
    def traceparent(self) -> str | None: ...


def exemplar(traceparent: str | None) -> dict[str, str]:
    """Return the labels of an exemplar, which links a histogram to a trace."""
    return {"trace_id": trace.trace_id(traceparent) or ""}


def transition_fields(
    task: TaskRef, source: State | None, target: State | None, reason: Reason
) -> dict[str, object]:
    """Return the log fields of a transition; the end of an attempt has the epoch of its claim."""
    return {
        "task_id": str(task.task_id),
        "trace_id": trace.trace_id(task.traceparent),
        "epoch": task.epoch or 0,
        "attempt": task.attempt or 0,
        "from": source and str(source),
        "to": target and str(target),
        "reason": str(reason),
    }


def messaging(operation: str, queue: str, task: TaskRef) -> dict[str, AttributeValue]:
    """Return the attributes of a create, send or process span."""
    return {
        "messaging.system": "holdfast",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": queue,
        "messaging.message.id": str(task.task_id),
        **task_attributes(task),
    }


def task_attributes(task: TaskRef) -> dict[str, AttributeValue]:
    """Return the attributes common to all spans of a task."""
    return {
        "holdfast.task.id": str(task.task_id),
        "holdfast.epoch": task.epoch or 0,
        "holdfast.attempt": task.attempt or 0,
    }
