"""What the API does to tasks: submits, cancels, retries."""

from __future__ import annotations

import time
from collections.abc import Sequence

from opentelemetry.trace import SpanKind

from observability import traceparent
from observability.event_names import EventName
from observability.tracing import Finished
from system.errors import HoldfastError
from system.lifecycle import Reason, State
from system.records import Acted, NewTask, Submitted
from system.telling import words
from system.telling.requests import Request
from system.telling.telemetry import Telemetry

_ACTIONS = {
    Reason.CANCELLED: ("Task cancelled", EventName.TASK_CANCELLED),
    Reason.CANCEL_REQUESTED: ("Cancellation requested", EventName.CANCEL_REQUESTED),
    Reason.RETRIED: ("Task retried on request", EventName.TASK_RETRIED),
}


class Submits:
    """Told after the database has answered, or when it has not and the client must be."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._log = telemetry.log
        self._metrics = telemetry.metrics
        self._tracing = telemetry.tracing
        self._verbose = telemetry.verbose

    def submitted(
        self,
        tasks: Sequence[NewTask],
        outcomes: Sequence[Submitted | HoldfastError],
        request: Request,
        began: int,
    ) -> None:
        """``began``: when they were handed over to be stored, in nanoseconds since 1970."""
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
                    self._log.debug(
                        "Task submitted", event_name=EventName.TASK_SUBMITTED, **_line(task)
                    )
            else:
                self._metrics.submitted.labels(task.queue, type(outcome).__name__).inc()
            if self._tracing.wants(task.traceparent):
                self._create(task, outcome, request, began)

    def cancelled(self, answer: Acted, request: Request, began: int) -> None:
        """A cancel was answered; ``began`` when it was sent."""
        running = answer.state is State.RUNNING
        reason = Reason.CANCEL_REQUESTED if running else Reason.CANCELLED
        self._acted("cancel", answer, reason, request, began)

    def retried(self, answer: Acted, request: Request, began: int) -> None:
        """A retry was answered; ``began`` when it was sent."""
        self._acted("retry", answer, Reason.RETRIED, request, began)

    def _create(
        self, task: NewTask, outcome: Submitted | HoldfastError, request: Request, began: int
    ) -> None:
        """Also of one that may not be stored: if it is, its spans have their parent."""
        context = traceparent.parse(task.traceparent)
        if context is None:
            return
        within = context.trace_id == request.context.trace_id
        self._tracing.record(
            Finished(
                f"create {task.queue}",
                context,
                request.context if within else None,
                began,
                time.time_ns(),
                SpanKind.PRODUCER,
                {
                    **words.messaging("create", task.queue, task.id, 0, 0),
                    "holdfast.task.name": task.name,
                },
                links=() if within else (request.name(),),
                error=None if isinstance(outcome, Submitted) else type(outcome).__name__,
            )
        )

    def _acted(
        self, action: str, answer: Acted, reason: Reason, request: Request, began: int
    ) -> None:
        if answer.made:
            if answer.state in words.OUTCOMES:
                self._metrics.finished.labels(str(answer.queue), words.OUTCOMES[answer.state]).inc()
            fields = words.line(
                answer.task_id,
                answer.traceparent,
                answer.epoch or 0,
                answer.attempt or 0,
                answer.found,
                answer.state,
                reason,
            )
            text, event_name = _ACTIONS[reason]
            self._log.info(text, event_name=event_name, **fields)
        create = traceparent.parse(answer.traceparent)
        if create is None or not self._tracing.wants(answer.traceparent):
            return
        answered = "made" if answer.made else "done before" if answer.done else "refused"
        self._tracing.record(
            Finished(
                action,
                self._tracing.child(create),
                create,
                began,
                time.time_ns(),
                attributes={
                    **words.of_task(answer.task_id, answer.epoch or 0, answer.attempt or 0),
                    "holdfast.reason": str(reason),
                    "holdfast.answer": answered,
                    "holdfast.state": str(answer.state),
                },
                links=(request.name(),),
            )
        )


def _line(task: NewTask) -> dict[str, object]:
    return words.line(task.id, task.traceparent, 0, 0, None, State.SCHEDULED, Reason.SUBMITTED)
