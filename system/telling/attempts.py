"""What a worker does to tasks: claims them, and ends its attempts."""

from __future__ import annotations

import time
from uuid import UUID

import orjson

from observability import traceparent
from observability.event_names import EventName
from observability.tracing import nanoseconds
from system.errors import Unstorable
from system.lifecycle import Reason, State
from system.records import Answer, Failure, Grant, Owned, Success
from system.telling import words
from system.telling.attempt_trace import AttemptTrace
from system.telling.telemetry import Telemetry

_STALE, _LOST = "stale", "lost"
_NO_FAULT = frozenset({Reason.SUCCEEDED, Reason.CANCELLED, Reason.HANDED_BACK})


class Attempts:
    """Told after the database has answered."""

    def __init__(self, telemetry: Telemetry, worker_id: UUID) -> None:
        self._log = telemetry.log
        self._metrics = telemetry.metrics
        self._tracing = telemetry.tracing
        self._verbose = telemetry.verbose
        self._worker_id = worker_id

    def now(self) -> int:
        """Nanoseconds since 1970, by the clock of this process."""
        return time.time_ns()

    def not_granted(self, hints: int) -> None:
        """So many hints were to no avail: their tasks were not to be had (any more)."""
        self._metrics.claims_refused.inc(hints)

    def beat(self, seconds: float) -> None:
        """A heartbeat was answered after so long."""
        self._metrics.heartbeat_seconds.set(seconds)

    def claimed(self, grant: Grant, batch: str | None) -> AttemptTrace | None:
        """An attempt begins; its trace, if that is recorded. ``batch``: what the hint carried."""
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
                **_line(grant, *states, Reason.CLAIMED),
            )
        if exemplar is None:
            return None
        trace = self._trace(grant, batch=batch)
        if trace is not None:
            trace.queued(nanoseconds(grant.queued_at), nanoseconds(grant.claimed_at))
        return trace

    def dropped(self, grant: Grant, batch: str | None) -> None:
        """It was granted to a worker that had died meanwhile: it never begins here."""
        self.claimed(grant, batch)
        self.lost(grant)

    def ran(self, grant: Grant, seconds: float) -> None:
        """Its handler took so long."""
        exemplar = self._exemplar(grant.traceparent)
        self._metrics.run_seconds.labels(grant.queue, grant.name).observe(seconds, exemplar)

    def succeeded(self, grant: Grant, trace: AttemptTrace | None, seconds: float) -> None:
        """``ctx.transaction()`` has committed: there is nothing left to be written.

        ``seconds``: since it was claimed.
        """
        success = Success(grant.task_id, grant.epoch, "")
        self._ended(grant, success, State.SUCCEEDED, trace, seconds)

    def lost(self, grant: Grant) -> None:
        """It was no longer ours: others have ended it, and tell it."""
        self._metrics.leases_lost.inc()
        self._metrics.attempts.labels(grant.queue, grant.name, _LOST).inc()
        self._log.warning(
            "Attempt lost its lease",
            event_name=EventName.ATTEMPT_LOST,
            **_line(grant, State.RUNNING, None, Reason.LOST),
        )

    def answered(
        self,
        attempt: Grant | Owned,
        end: Success | Failure,
        answer: Answer,
        trace: AttemptTrace | None,
        seconds: float = 0.0,
    ) -> None:
        """What the database says to an end: it stands, or the fence has refused it.

        ``seconds``: since it was claimed, where its handler ran.
        """
        if answer.done:
            self._ended(attempt, end, answer.state, trace, seconds)
            return
        self._metrics.stale_writes.inc()
        self._metrics.attempts.labels(attempt.queue, attempt.name, _STALE).inc()
        if trace is not None:
            trace.refused()
        wanted = Reason.SUCCEEDED if isinstance(end, Success) else end.reason
        self._log.warning(
            "Stale write refused",
            event_name=EventName.STALE_WRITE_REFUSED,
            **_line(attempt, State.RUNNING, None, wanted),
            found=answer.state and str(answer.state),
        )

    def found(self, owned: Owned) -> AttemptTrace | None:
        """The database has it under this worker's name, but it is unknown here."""
        if not self._tracing.wants(owned.traceparent):
            return None
        return self._trace(owned, began=nanoseconds(owned.claimed_at))

    def _ended(
        self,
        attempt: Grant | Owned,
        end: Success | Failure,
        state: State | None,
        trace: AttemptTrace | None,
        seconds: float,
    ) -> None:
        reason = _reason(end, state)
        self._metrics.attempts.labels(attempt.queue, attempt.name, str(reason)).inc()
        if state in words.OUTCOMES:
            self._metrics.finished.labels(attempt.queue, words.OUTCOMES[state]).inc()
        if state is State.SUCCEEDED and isinstance(attempt, Grant):
            exemplar = self._exemplar(attempt.traceparent)
            whole = attempt.age_seconds + seconds
            self._metrics.task_seconds.labels(attempt.queue).observe(whole, exemplar)
        ordinary = reason is Reason.SUCCEEDED
        if self._verbose or not ordinary:
            fields = _line(attempt, State.RUNNING, state, reason)
            say = self._log.debug if ordinary else self._log.info
            say("Attempt ended", event_name=EventName.ATTEMPT_ENDED, name=attempt.name, **fields)
        if trace is not None:
            delay = end.delay_seconds if isinstance(end, Failure) else 0.0
            trace.ended(reason, state, delay_seconds=delay, error=_error(end, reason))

    def _exemplar(self, text: str | None) -> dict[str, str] | None:
        """What a histogram may show of one task: only a trace that will be found."""
        return words.exemplar(text) if self._tracing.wants(text) else None

    def _trace(
        self, attempt: Grant | Owned, *, batch: str | None = None, began: int | None = None
    ) -> AttemptTrace | None:
        create = traceparent.parse(attempt.traceparent)
        if create is None:
            return None
        return AttemptTrace(
            self._tracing,
            attempt,
            create,
            self._worker_id,
            batch=traceparent.parse(batch),
            began=began,
        )


def _line(
    attempt: Grant | Owned, source: State, target: State | None, reason: Reason
) -> dict[str, object]:
    return words.line(
        attempt.task_id,
        attempt.traceparent,
        attempt.epoch,
        attempt.attempt,
        source,
        target,
        reason,
    )


def _reason(end: Success | Failure, state: State | None) -> Reason:
    """As the event has it.

    A failure that found SUCCEEDED has settled a COMMIT of unknown outcome: that one stood. A
    success that made anything else could not be stored.
    """
    if state is State.SUCCEEDED:
        return Reason.SUCCEEDED
    return Reason.FAILED if isinstance(end, Success) else end.reason


def _error(end: Success | Failure, reason: Reason) -> str | None:
    """The type of what the handler raised, else the reason; None where nothing went wrong."""
    if reason in _NO_FAULT:
        return None
    if isinstance(end, Success):
        return Unstorable.__name__
    if reason is Reason.FAILED and end.detail is not None:
        return str(orjson.loads(end.detail)["error"]["type"])
    return str(reason)
