"""Telemetry of the API's transitions: submit, cancel, retry."""

from __future__ import annotations

import time
from collections.abc import Sequence

from opentelemetry.trace import SpanKind

from holdfast.errors import HoldfastError
from holdfast.instrumentation import attributes
from holdfast.instrumentation.requests import RequestTrace
from holdfast.instrumentation.telemetry import Telemetry
from holdfast.model.claim import AttemptRef
from holdfast.model.lifecycle import Reason, State
from holdfast.model.task import ActionResult, NewTask, Submitted
from holdfast.telemetry import traceparent
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.trace_context import FinishedSpan

_ACTIONS = {
    Reason.CANCELLED: ("Task cancelled", EventName.TASK_CANCELLED),
    Reason.CANCEL_REQUESTED: ("Cancellation requested", EventName.CANCEL_REQUESTED),
    Reason.RETRIED: ("Task retried on request", EventName.TASK_RETRIED),
}


class TaskInstrumentation:
    """Emit telemetry after the database has answered or the request has timed out."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._log = telemetry.log
        self._metrics = telemetry.metrics
        self._tracing = telemetry.tracing
        self._verbose = telemetry.verbose

    def submitted(
        self,
        tasks: Sequence[NewTask],
        outcomes: Sequence[Submitted | HoldfastError],
        request: RequestTrace,
        began: int,
    ) -> None:
        """Record a submit; ``began`` is when it was sent, in nanoseconds since 1970."""
        for task, outcome in zip(tasks, outcomes, strict=True):
            if isinstance(outcome, Submitted):
                self._metrics.submitted.labels(task.queue, outcome.outcome).inc()
                if outcome.outcome != "created":
                    continue
                if outcome.again:
                    self._log.warning(
                        "Submit of unknown outcome had been committed",
                        event_name=EventName.SUBMIT_ALREADY_COMMITTED,
                        task_id=str(task.id),
                    )
                if self._verbose:
                    fields = attributes.transition_fields(
                        _ref(task), None, State.SCHEDULED, Reason.SUBMITTED
                    )
                    self._log.debug("Task submitted", event_name=EventName.TASK_SUBMITTED, **fields)
            else:
                self._metrics.submitted.labels(task.queue, type(outcome).__name__).inc()
            if self._tracing.wants(task.traceparent):
                self._create(task, outcome, request, began)

    def cancelled(self, answer: ActionResult, request: RequestTrace, began: int) -> None:
        """Record the answer to a cancel; ``began`` is when it was sent."""
        running = answer.state is State.RUNNING
        reason = Reason.CANCEL_REQUESTED if running else Reason.CANCELLED
        self._acted("cancel", answer, reason, request, began)

    def retried(self, answer: ActionResult, request: RequestTrace, began: int) -> None:
        """Record the answer to a retry; ``began`` is when it was sent."""
        self._acted("retry", answer, Reason.RETRIED, request, began)

    def _create(
        self, task: NewTask, outcome: Submitted | HoldfastError, request: RequestTrace, began: int
    ) -> None:
        """Emit the create span even for an unknown outcome: later spans need their parent."""
        context = traceparent.parse(task.traceparent)
        if context is None:
            return
        within = context.trace_id == request.context.trace_id
        self._tracing.record(
            FinishedSpan(
                f"create {task.queue}",
                context,
                request.context if within else None,
                began,
                time.time_ns(),
                SpanKind.PRODUCER,
                {
                    **attributes.messaging("create", task.queue, _ref(task)),
                    "holdfast.task.name": task.name,
                },
                links=() if within else (request.name(),),
                error=None if isinstance(outcome, Submitted) else type(outcome).__name__,
            )
        )

    def _acted(
        self, action: str, answer: ActionResult, reason: Reason, request: RequestTrace, began: int
    ) -> None:
        if answer.made:
            if answer.state in attributes.OUTCOMES:
                self._metrics.finished.labels(
                    str(answer.queue), attributes.OUTCOMES[answer.state]
                ).inc()
            fields = attributes.transition_fields(answer, answer.found, answer.state, reason)
            text, event_name = _ACTIONS[reason]
            self._log.info(text, event_name=event_name, **fields)
        create = traceparent.parse(answer.traceparent)
        if create is None or not self._tracing.wants(answer.traceparent):
            return
        answered = "made" if answer.made else "done before" if answer.done else "refused"
        self._tracing.record(
            FinishedSpan(
                action,
                self._tracing.child(create),
                create,
                began,
                time.time_ns(),
                attributes={
                    **attributes.task_attributes(answer),
                    "holdfast.reason": reason.text,
                    "holdfast.answer": answered,
                    "holdfast.state": str(answer.state),
                },
                links=(request.name(),),
            )
        )


def _ref(task: NewTask) -> AttemptRef:
    """Identify a new task: epoch and attempt are 0 until it is first claimed."""
    return AttemptRef(task.id, 0, 0, task.name, task.queue, task.traceparent)
