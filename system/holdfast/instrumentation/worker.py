"""Telemetry of a worker: claims and ends of attempts."""

from __future__ import annotations

import time
from uuid import UUID

import orjson

from holdfast.errors import Unstorable
from holdfast.instrumentation import attributes
from holdfast.instrumentation.attempt_span import AttemptSpan
from holdfast.instrumentation.telemetry import Telemetry
from holdfast.model.claim import AttemptRef, Failure, Grant, OwnedAttempt, Success
from holdfast.model.lifecycle import Reason, State
from holdfast.model.task import Answer
from holdfast.telemetry import traceparent
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.trace_context import nanoseconds

_STALE, _LOST = "stale", "lost"
_NO_FAULT = frozenset({Reason.SUCCEEDED, Reason.CANCELLED, Reason.RELEASED})


class WorkerInstrumentation:
    """Emit telemetry of a worker's transitions after the database has answered."""

    def __init__(self, telemetry: Telemetry, worker_id: UUID) -> None:
        self._log = telemetry.log
        self._metrics = telemetry.metrics
        self._tracing = telemetry.tracing
        self._verbose = telemetry.verbose
        self._worker_id = worker_id

    def now(self) -> int:
        """Return nanoseconds since 1970 by the clock of this process."""
        return time.time_ns()

    def not_granted(self, hints: int) -> None:
        """Count hints whose task could not be claimed (already claimed, cancelled or stale)."""
        self._metrics.claims_refused.inc(hints)

    def heartbeat_answered(self, seconds: float) -> None:
        """Record the round trip of a heartbeat."""
        self._metrics.heartbeat_seconds.set(seconds)

    def claimed(self, grant: Grant, batch_traceparent: str | None) -> AttemptSpan | None:
        """Record the start of an attempt; return its span if sampled."""
        exemplar = self._exemplar(grant.traceparent)
        queued = (grant.claimed_at - grant.queued_at).total_seconds()
        self._metrics.claimed.labels(grant.queue).inc()
        waited = max(0.0, grant.waited_seconds)
        self._metrics.start_seconds.labels(grant.queue).observe(waited, exemplar)
        self._metrics.queue_seconds.labels(grant.queue).observe(queued, exemplar)
        if self._verbose:
            states = (State.QUEUED, State.RUNNING)
            self._log.debug(
                "Task claimed",
                event_name=EventName.TASK_CLAIMED,
                **attributes.transition_fields(grant, *states, Reason.CLAIMED),
            )
        if exemplar is None:
            return None
        span = self._span(grant, batch_traceparent=batch_traceparent)
        if span is not None:
            span.queued(nanoseconds(grant.queued_at), nanoseconds(grant.claimed_at))
        return span

    def dropped(self, grant: Grant, batch_traceparent: str | None) -> None:
        """Record a grant that does not start because the worker was marked dead meanwhile."""
        self.claimed(grant, batch_traceparent)
        self.lost(grant)

    def ran(self, grant: Grant, seconds: float) -> None:
        """Record the run time of a handler."""
        exemplar = self._exemplar(grant.traceparent)
        self._metrics.run_seconds.labels(grant.queue, grant.name).observe(seconds, exemplar)

    def succeeded(self, grant: Grant, span: AttemptSpan | None, seconds: float) -> None:
        """Record a success committed by ``ctx.transaction()``, ``seconds`` after the claim."""
        success = Success(grant.task_id, grant.epoch, "")
        self._ended(grant, success, State.SUCCEEDED, span, seconds)

    def lost(self, grant: Grant) -> None:
        """Record an attempt that another process has ended; that process emits its span."""
        self._metrics.leases_lost.inc()
        self._metrics.attempts.labels(grant.queue, grant.name, _LOST).inc()
        self._log.warning(
            "Attempt is no longer owned by this worker",
            event_name=EventName.ATTEMPT_LOST,
            **attributes.transition_fields(grant, State.RUNNING, None, Reason.LOST),
        )

    def answered(
        self,
        attempt: AttemptRef,
        end: Success | Failure,
        answer: Answer,
        span: AttemptSpan | None,
        seconds: float = 0.0,
    ) -> None:
        """Record the database's answer to an end: accepted, or refused by the fence.

        ``seconds``: since the claim; 0 if no handler ran.
        """
        if answer.done:
            self._ended(attempt, end, answer.state, span, seconds)
            return
        self._metrics.stale_writes.inc()
        self._metrics.attempts.labels(attempt.queue, attempt.name, _STALE).inc()
        if span is not None:
            span.refused()
        reason = Reason.SUCCEEDED if isinstance(end, Success) else end.reason
        self._log.warning(
            "Stale write refused",
            event_name=EventName.STALE_WRITE_REFUSED,
            **attributes.transition_fields(attempt, State.RUNNING, None, reason),
            found=answer.state and str(answer.state),
        )

    def found(self, owned: OwnedAttempt) -> AttemptSpan | None:
        """Return the span of an attempt recorded for this worker that does not run here."""
        if not self._tracing.wants(owned.traceparent):
            return None
        return self._span(owned, began=nanoseconds(owned.claimed_at))

    def _ended(
        self,
        attempt: AttemptRef,
        end: Success | Failure,
        state: State | None,
        span: AttemptSpan | None,
        seconds: float,
    ) -> None:
        reason = _reason(end, state)
        self._metrics.attempts.labels(attempt.queue, attempt.name, reason.text).inc()
        if isinstance(end, Failure) and end.unhandled:
            self._metrics.unhandled.labels(attempt.queue, attempt.name).inc()
        if state in attributes.OUTCOMES:
            self._metrics.finished.labels(attempt.queue, attributes.OUTCOMES[state]).inc()
        if state is State.SUCCEEDED and isinstance(attempt, Grant):
            exemplar = self._exemplar(attempt.traceparent)
            whole = attempt.age_seconds + seconds
            self._metrics.task_seconds.labels(attempt.queue).observe(whole, exemplar)
        ordinary = reason is Reason.SUCCEEDED
        if self._verbose or not ordinary:
            fields = attributes.transition_fields(attempt, State.RUNNING, state, reason)
            log = self._log.debug if ordinary else self._log.info
            log("Attempt ended", event_name=EventName.ATTEMPT_ENDED, name=attempt.name, **fields)
        if span is not None:
            delay = end.delay_seconds if isinstance(end, Failure) else 0.0
            span.ended(reason, state, delay_seconds=delay, error=_error(end, reason))

    def _exemplar(self, text: str | None) -> dict[str, str] | None:
        """Return exemplar labels if the trace is recorded."""
        return attributes.exemplar(text) if self._tracing.wants(text) else None

    def _span(
        self, attempt: AttemptRef, *, batch_traceparent: str | None = None, began: int | None = None
    ) -> AttemptSpan | None:
        create = traceparent.parse(attempt.traceparent)
        if create is None:
            return None
        return AttemptSpan(
            self._tracing,
            attempt,
            create,
            self._worker_id,
            batch=traceparent.parse(batch_traceparent),
            began=began,
        )


def _reason(end: Success | Failure, state: State | None) -> Reason:
    """Return the reason recorded in the database's event.

    A failure answered with SUCCEEDED settled a COMMIT of unknown outcome that had been applied. A
    success answered with any other state had an unstorable result.
    """
    if state is State.SUCCEEDED:
        return Reason.SUCCEEDED
    return Reason.FAILED if isinstance(end, Success) else end.reason


def _error(end: Success | Failure, reason: Reason) -> str | None:
    """Return the type of the handler's exception, else the reason; None without a failure."""
    if reason in _NO_FAULT:
        return None
    if isinstance(end, Success):
        return Unstorable.__name__
    if reason is Reason.FAILED and end.detail is not None:
        return str(orjson.loads(end.detail)["error"]["type"])
    return reason.text
