"""Telemetry of a scheduler: dispatch, republish, reclaim."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

from opentelemetry.trace import SpanContext, SpanKind

from holdfast.instrumentation import attributes
from holdfast.instrumentation.attempt_span import attempt_context, ends_as, links_of
from holdfast.instrumentation.telemetry import Telemetry
from holdfast.model.claim import ReclaimedAttempt
from holdfast.model.dispatch import Dispatched, Republished
from holdfast.model.lifecycle import Reason, State
from holdfast.telemetry import traceparent
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.trace_context import FinishedSpan, TimedEvent, nanoseconds

_STARVED_NANOSECONDS = 1_000_000

T = TypeVar("T", bound=Republished)


class SchedulerInstrumentation:
    """Emit telemetry after the database has answered.

    ``sent`` is ``now()`` before the statement. A batch with a sampled task has its own root span.
    """

    def __init__(self, telemetry: Telemetry, actor: str) -> None:
        self._log = telemetry.log
        self._metrics = telemetry.metrics
        self._tracing = telemetry.tracing
        self._verbose = telemetry.verbose
        self._actor = actor
        # rate() needs a first sample of 0.
        for reason in (Reason.LOST, Reason.TIMED_OUT, Reason.RELEASED):
            self._metrics.reclaimed.labels(reason.text)

    def now(self) -> int:
        """Return nanoseconds since 1970 by the clock of this process."""
        return time.time_ns()

    @contextmanager
    def dispatched(self, tasks: Sequence[Dispatched], sent: int) -> Iterator[str | None]:
        """Trace the publishing of dispatched tasks; yield the batch's traceparent if sampled.

        The dispatch itself is recorded even if publishing fails.
        """
        for queue, count in Counter(task.queue for task in tasks).items():
            self._metrics.dispatched.labels(queue).inc(count)
        if self._verbose:
            for task in tasks:
                self._log.debug(
                    "Task dispatched",
                    event_name=EventName.TASK_DISPATCHED,
                    **attributes.transition_fields(
                        task, State.SCHEDULED, State.QUEUED, Reason.DISPATCHED
                    ),
                )
        sampled = self._sampled(tasks)
        for task in sampled:
            self._waited(task)
        with self._published("dispatch", len(tasks), sampled, sent) as batch_traceparent:
            yield batch_traceparent

    @contextmanager
    def republished(self, tasks: Sequence[Republished], sent: int) -> Iterator[str | None]:
        """Trace the publishing of hints that were not claimed by their deadline."""
        self._metrics.republished.inc(len(tasks))
        for task in tasks:
            self._log.info(
                "Hint republished: not claimed by its deadline",
                event_name=EventName.HINT_REPUBLISHED,
                **attributes.transition_fields(
                    task, State.QUEUED, State.QUEUED, Reason.REPUBLISHED
                ),
            )
        with self._published("republish", len(tasks), self._sampled(tasks), sent) as batch:
            yield batch

    def reclaimed(self, attempts: Sequence[ReclaimedAttempt], sent: int) -> None:
        """Record reclaimed attempts and emit their spans, which their workers never will."""
        sampled = [attempt for attempt in attempts if self._tracing.wants(attempt.traceparent)]
        sweep = self._tracing.sampled_root() if sampled else None
        for attempt in attempts:
            self._metrics.reclaimed.labels(attempt.reason.text).inc()
            if attempt.state in attributes.OUTCOMES:
                outcome = attributes.OUTCOMES[attempt.state]
                self._metrics.finished.labels(attempt.queue, outcome).inc()
            self._log.warning(
                "Attempt reclaimed from its worker",
                event_name=EventName.ATTEMPT_RECLAIMED,
                **attributes.transition_fields(
                    attempt, State.RUNNING, attempt.state, attempt.reason
                ),
                worker=str(attempt.owner),
            )
        if sweep is not None:
            for attempt in sampled:
                self._attempt(attempt, sweep)
            self._batch("sweep", sweep, len(attempts), sent)

    def marked_dead(self, worker: UUID) -> None:
        """Record a worker that was marked dead after its lease expired."""
        self._metrics.workers_lost.inc()
        self._log.warning(
            "Worker marked dead: its lease expired",
            event_name=EventName.WORKER_MARKED_DEAD,
            worker=str(worker),
        )

    def hints_lost(self, queued: int) -> None:
        """Record a hint loss: Redis is empty although ``queued`` tasks had hints in it."""
        self._log.warning(
            "Redis lost its hints; republishing all of them",
            event_name=EventName.HINT_LOSS_DETECTED,
            queued=queued,
        )

    def hints_restored(self) -> None:
        """Count a hint loss after all hints were republished."""
        self._metrics.hint_losses.inc()

    def drained(self, worker: UUID, queue: str, hints: int) -> None:
        """Record that the unclaimed hints of a dead worker were requeued."""
        self._log.info(
            "Dead consumer drained: its unclaimed hints were requeued",
            event_name=EventName.DEAD_CONSUMER_DRAINED,
            worker=str(worker),
            queue=queue,
            hints=hints,
        )

    def pruned(self, tasks: int) -> None:
        """Count tasks deleted after their retention."""
        self._metrics.pruned.inc(tasks)

    def _sampled(self, tasks: Sequence[T]) -> list[T]:
        return [task for task in tasks if self._tracing.wants(task.traceparent)]

    @contextmanager
    def _published(
        self, name: str, count: int, sampled: Sequence[Republished], sent: int
    ) -> Iterator[str | None]:
        """Trace a batch of ``count`` hints and the send of each sampled task."""
        if not sampled:
            yield None
            return
        batch = self._tracing.sampled_root()
        error = None
        try:
            yield traceparent.write(batch)
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            for task in sampled:
                self._send(name, task, batch, sent, error)
            self._batch(name, batch, count, sent, error)

    def _waited(self, task: Dispatched) -> None:
        """Record the waits by the database's clock: until due, then for a dispatch (starved)."""
        create = traceparent.parse(task.traceparent)
        since, due, at = map(nanoseconds, (task.since, task.due_at, task.at))
        if create is None:
            return
        of_task = attributes.task_attributes(task)
        if due > since:
            child = self._tracing.child(create)
            self._tracing.record(
                FinishedSpan("scheduled", child, create, since, due, attributes=of_task)
            )
        due = max(due, since)
        if at - due >= _STARVED_NANOSECONDS:
            child = self._tracing.child(create)
            self._tracing.record(
                FinishedSpan("starved", child, create, due, at, attributes=of_task)
            )

    def _send(
        self, within: str, task: Republished, batch: SpanContext, sent: int, error: str | None
    ) -> None:
        create = traceparent.parse(task.traceparent)
        if create is None:
            return
        self._tracing.record(
            FinishedSpan(
                f"send {task.queue}",
                self._tracing.child(create),
                create,
                sent,
                self.now(),
                SpanKind.PRODUCER,
                {
                    **attributes.messaging("send", task.queue, task),
                    "holdfast.republished": within == "republish",
                },
                links=(batch,),
                error=error,
            )
        )

    def _batch(
        self, name: str, context: SpanContext, count: int, sent: int, error: str | None = None
    ) -> None:
        self._tracing.record(
            FinishedSpan(
                name,
                context,
                None,
                sent,
                self.now(),
                attributes={
                    "messaging.system": "holdfast",
                    "messaging.batch.message_count": count,
                    "holdfast.actor": self._actor,
                },
                error=error,
            )
        )

    def _attempt(self, attempt: ReclaimedAttempt, sweep: SpanContext) -> None:
        """Emit the span of an attempt whose worker died, or did not end it in time."""
        create = traceparent.parse(attempt.traceparent)
        if create is None:
            return
        began, ended = nanoseconds(attempt.claimed_at), nanoseconds(attempt.at)
        reason = attempt.reason.text
        why = {
            "holdfast.reason": reason,
            "holdfast.actor": self._actor,
            "holdfast.worker.id": str(attempt.owner),
        }
        self._tracing.record(
            FinishedSpan(
                f"process {attempt.queue}",
                attempt_context(create, attempt.task_id, attempt.epoch),
                create,
                began,
                ended,
                SpanKind.CONSUMER,
                {
                    **attributes.messaging("process", attempt.queue, attempt),
                    "holdfast.task.name": attempt.name,
                    "holdfast.worker.id": str(attempt.owner),
                    "holdfast.outcome": reason,
                },
                links=links_of(create, attempt.task_id, attempt.epoch, sweep),
                events=(
                    TimedEvent("claimed", began),
                    TimedEvent("taken back", ended, why),
                    *ends_as(attempt.state, ended, reason, 0.0),
                ),
                error=None if attempt.reason is Reason.RELEASED else reason,
            )
        )
