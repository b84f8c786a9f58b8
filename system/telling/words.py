"""The words that lines and spans share: fields of a transition, attributes by the conventions.

Attributes follow OpenTelemetry's conventions for messaging; what these have no name for begins with
``holdfast.``.
"""

from __future__ import annotations

from uuid import UUID

from opentelemetry.util.types import AttributeValue

from observability import traceparent as trace
from system.lifecycle import Reason, State

# How metrics name the end of a task.
OUTCOMES: dict[State | None, str] = {
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}


def exemplar(traceparent: str | None) -> dict[str, str]:
    """The labels of an exemplar: what leads from a histogram to a trace."""
    return {"trace_id": trace.trace_id(traceparent) or ""}


def line(
    task_id: UUID,
    traceparent: str | None,
    epoch: int,
    attempt: int,
    source: State | None,
    target: State | None,
    reason: Reason,
) -> dict[str, object]:
    """The fields of every line that tells a transition. ``epoch`` of an attempt: the odd one."""
    return {
        "task_id": str(task_id),
        "trace_id": trace.trace_id(traceparent),
        "epoch": epoch,
        "attempt": attempt,
        "from": source and str(source),
        "to": target and str(target),
        "reason": str(reason),
    }


def messaging(
    operation: str, queue: str, task_id: UUID, epoch: int, attempt: int
) -> dict[str, AttributeValue]:
    """The attributes of a task's create, send and process."""
    return {
        "messaging.system": "holdfast",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": queue,
        "messaging.message.id": str(task_id),
        **of_task(task_id, epoch, attempt),
    }


def of_task(task_id: UUID, epoch: int, attempt: int) -> dict[str, AttributeValue]:
    """What every span of a task has."""
    return {
        "holdfast.task.id": str(task_id),
        "holdfast.epoch": epoch,
        "holdfast.attempt": attempt,
    }
