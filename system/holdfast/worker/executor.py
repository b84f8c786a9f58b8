"""Execute grants: run the handler, write the end of the attempt, emit its telemetry.

A quarantined task runs exclusively: if it crashes the process, no other attempt is lost.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from holdfast.handlers.cancellation import StopReason
from holdfast.instrumentation.attempt_span import AttemptSpan
from holdfast.instrumentation.worker import WorkerInstrumentation
from holdfast.model.claim import AttemptKey, AttemptRef, Failure, Grant, OwnedAttempt, Success
from holdfast.model.lifecycle import Backoff, Reason
from holdfast.model.task import Answer
from holdfast.settings import Settings
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.logs import Logger
from holdfast.worker.attempt import RunningAttempt
from holdfast.worker.finisher import Finisher
from holdfast.worker.handler_runner import HandlerRunner
from holdfast.worker.slot_pool import SlotPool

_CLOSE_SECONDS = 1.0  # for handlers to end after ``close`` cancelled them
_REST_JITTER = 0.1


class Executor:
    """Executes the attempts of one worker; ``attempts`` are those with a handler, until settled."""

    def __init__(
        self,
        settings: Settings,
        handlers: HandlerRunner,
        finisher: Finisher,
        slots: SlotPool,
        telemetry: WorkerInstrumentation,
        log: Logger,
    ) -> None:
        self.attempts: dict[AttemptKey, RunningAttempt] = {}
        self.slots = slots
        self._unknown_name_rest = Backoff(
            settings.unknown_name_seconds,
            max_seconds=settings.unknown_name_max_seconds,
            jitter=_REST_JITTER,
        )
        self._handlers = handlers
        self._finisher = finisher
        self._telemetry = telemetry
        self._log = log
        # Those without a handler, until settled, and when they were claimed.
        self._releasing: dict[AttemptKey, datetime] = {}
        self._claimed_at: datetime | None = None  # the latest grant

    @property
    def known(self) -> set[AttemptKey]:
        """Attempts the database may still record as owned by this worker."""
        return self.attempts.keys() | self._releasing.keys()

    @property
    def begun_until(self) -> datetime | None:
        """An instant of the database's clock: what was claimed until then has begun or ended here.

        A claim that awaits its answer is later than the latest grant, since claims are sent one
        after the other. None before the first grant.
        """
        waiting = [a.grant.claimed_at for a in self.attempts.values() if not a.begun]
        first = min([*waiting, *self._releasing.values()], default=None)
        return self._claimed_at if first is None else first - timedelta.resolution

    def begin(
        self, grant: Grant, claimed: float, *, batch_traceparent: str | None, stopping: bool
    ) -> None:
        """Start the handler of a grant, claimed at ``claimed`` or later, by the loop's clock.

        ``stopping``: the worker is shutting down; the attempt is stopped before it starts.
        """
        self._claimed_at = max(grant.claimed_at, self._claimed_at or grant.claimed_at)
        span = self._telemetry.claimed(grant, batch_traceparent)
        attempt = self._handlers.prepare(grant, span, claimed)
        if attempt is None:
            self._log.warning(
                "No handler is registered for this task name",
                event_name=EventName.HANDLER_MISSING,
                task_id=str(grant.task_id),
                name=grant.name,
            )
            self.release(grant, self._unknown_name(grant), span)
            return
        self.attempts[grant.key] = attempt
        if grant.quarantined:
            self.slots.acquire_exclusive(attempt)
        if stopping:
            attempt.stop(StopReason.SHUTTING_DOWN)
        self.slots.run(self._run(attempt), attempt)

    def release(
        self, attempt: Grant | OwnedAttempt, end: Failure, span: AttemptSpan | None
    ) -> None:
        """End an attempt that has no handler here; it occupies a slot until settled."""
        self._releasing[attempt.key] = attempt.claimed_at
        self.slots.run(self._release(attempt, end, span))

    def stop(self, reason: StopReason) -> None:
        """Request every handler to stop."""
        for attempt in list(self.attempts.values()):
            attempt.stop(reason)

    def lost(self, key: AttemptKey) -> None:
        """Stop the handler of an attempt that this worker no longer owns in the database.

        An attempt that sent its own COMMIT may be over for that reason: its handler goes on, until
        it is asked to stop for another one.
        """
        attempt = self.attempts.get(key)
        if attempt is None or (attempt.commit_sent and not attempt.stopping):
            return
        del self.attempts[key]
        attempt.stop(StopReason.LEASE_LOST)
        self.slots.release_exclusive(attempt)
        self.slots.over(attempt)

    async def close(self) -> None:
        """Cancel the running attempts; threads cannot be stopped and are abandoned."""
        self._handlers.close()
        await self.slots.close(_CLOSE_SECONDS)

    async def _run(self, attempt: RunningAttempt) -> None:
        grant, loop = attempt.grant, asyncio.get_running_loop()
        began = loop.time()
        try:
            end = await self._handlers.run(attempt)
            self._telemetry.ran(grant, loop.time() - began)
            answer = await self._settle(end, attempt.span) if end else None
        finally:
            self.attempts.pop(grant.key, None)
            self.slots.release_exclusive(attempt)
            self.slots.over(attempt)
        self._emit(attempt, end, answer, loop.time() - began)
        # A thread that outlives its attempt keeps the slot.
        await attempt.wait_for_thread()

    async def _release(self, attempt: AttemptRef, end: Failure, span: AttemptSpan | None) -> None:
        try:
            answer = await self._settle(end, span)
        finally:
            self._releasing.pop(attempt.key, None)
        self._telemetry.answered(attempt, end, answer, span)

    async def _settle(self, end: Success | Failure, span: AttemptSpan | None) -> Answer:
        """Write the end of an attempt and return the database's answer."""
        began = self._telemetry.now()
        answer = await self._finisher.settle(end)
        if span is not None:
            span.finished(began)
        return answer

    def _emit(
        self,
        attempt: RunningAttempt,
        end: Success | Failure | None,
        answer: Answer | None,
        seconds: float,
    ) -> None:
        """Emit how the attempt ended; without ``end`` it committed itself, or was lost."""
        if end is not None and answer is not None:
            self._telemetry.answered(attempt.grant, end, answer, attempt.span, seconds)
        elif attempt.committed:
            self._telemetry.succeeded(attempt.grant, attempt.span, seconds)
        else:
            self._telemetry.lost(attempt.grant)

    def _unknown_name(self, grant: Grant) -> Failure:
        """Return a release, not counted as a failure: another worker may have the handler.

        The task rests ever longer: a name that no worker handles any more must not keep all busy.
        The jitter matters: idle workers read hints at regular times, and Redis prefers the one that
        has waited for longest. After equal rests the same worker might get the task for ever.
        """
        return Failure(
            grant.task_id,
            grant.epoch,
            Reason.RELEASED,
            self._unknown_name_rest.delay_seconds(grant.unhandled + 1, self._handlers.uniform()),
            '{"error": {"type": "UnknownName", "message": "this worker has no handler for it"}}',
            unhandled=True,
        )
