"""What a scheduler does to tasks: dispatches, hints published again, attempts taken back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

from opentelemetry.trace import SpanContext, SpanKind

from observability import traceparent
from observability.event_names import EventName
from observability.tracing import Finished, Happening, nanoseconds
from system.lifecycle import Reason, State
from system.records import Dispatched, Hint, Republished, TakenBack
from system.telling import words
from system.telling.attempt_trace import attempt_context, ends_as, links_of
from system.telling.telemetry import Telemetry

_STARVED_NANOSECONDS = 1_000_000

T = TypeVar("T", bound=Republished)


class Dispatches:
    """Told after the database has answered. ``now`` before a statement is sent says when it was.

    A batch has a span of its own, a root, if any task in it is sampled.
    """

    def __init__(self, telemetry: Telemetry, actor: str) -> None:
        self._log = telemetry.log
        self._metrics = telemetry.metrics
        self._tracing = telemetry.tracing
        self._verbose = telemetry.verbose
        self._actor = actor
        for reason in (Reason.LOST, Reason.TIMED_OUT):
            self._metrics.taken_back.labels(str(reason))  # an increase from nothing is none

    def now(self) -> int:
        """Nanoseconds since 1970, by the clock of this process."""
        return time.time_ns()

    @contextmanager
    def dispatched(self, tasks: Sequence[Dispatched], sent: int) -> Iterator[Sequence[Hint]]:
        """``with ... as hints:`` publish these; what the database did is told either way."""
        for queue, count in Counter(task.queue for task in tasks).items():
            self._metrics.dispatched.labels(queue).inc(count)
        if self._verbose:
            for task in tasks:
                self._log.debug(
                    "Task dispatched",
                    event_name=EventName.TASK_DISPATCHED,
                    **_line(task, State.SCHEDULED, Reason.DISPATCHED),
                )
        sampled = self._sampled(tasks)
        for task in sampled:
            self._waited(task)
        with self._published("dispatch", tasks, sampled, sent) as hints:
            yield hints

    @contextmanager
    def republished(self, tasks: Sequence[Republished], sent: int) -> Iterator[Sequence[Hint]]:
        """The same for hints that were not claimed by their deadline."""
        self._metrics.republished.inc(len(tasks))
        for task in tasks:
            self._log.info(
                "Hint republished: its deadline passed without a claim",
                event_name=EventName.HINT_REPUBLISHED,
                **_line(task, State.QUEUED, Reason.REPUBLISHED),
            )
        with self._published("republish", tasks, self._sampled(tasks), sent) as hints:
            yield hints

    def taken_back(self, ends: Sequence[TakenBack], sent: int) -> None:
        """Each of these attempts was ended for its worker: this is who tells its span."""
        sampled = [end for end in ends if self._tracing.wants(end.traceparent)]
        sweep = self._tracing.sampled_root() if sampled else None
        for end in ends:
            self._metrics.taken_back.labels(str(end.reason)).inc()
            if end.state in words.OUTCOMES:
                self._metrics.finished.labels(end.queue, words.OUTCOMES[end.state]).inc()
            epoch = end.epoch - 1
            self._log.warning(
                "Attempt reclaimed from its worker",
                event_name=EventName.ATTEMPT_RECLAIMED,
                **words.line(
                    *(end.task_id, end.traceparent, epoch, end.attempt),
                    *(State.RUNNING, end.state, end.reason),
                ),
                worker=str(end.owner),
            )
        if sweep is not None:
            for end in sampled:
                self._attempt(end, sweep)
            self._batch("sweep", sweep, len(ends), sent)

    def died(self, worker: UUID) -> None:
        """A worker's lease had expired: it is dead for ever."""
        self._metrics.workers_lost.inc()
        self._log.warning(
            "Worker marked dead: its lease expired",
            event_name=EventName.WORKER_MARKED_DEAD,
            worker=str(worker),
        )

    def forgotten(self, queued: int) -> None:
        """Redis was found empty."""
        self._log.warning(
            "Redis lost its hints; republishing all of them",
            event_name=EventName.HINT_LOSS_DETECTED,
            queued=queued,
        )

    def remembered(self) -> None:
        """All its hints are published again."""
        self._metrics.amnesia.inc()

    def buried(self, worker: UUID, queue: str, hints: int) -> None:
        """What a dead worker had read and not claimed was given to the living."""
        self._log.info(
            "Dead consumer drained: its unclaimed hints were requeued",
            event_name=EventName.DEAD_CONSUMER_DRAINED,
            worker=str(worker),
            queue=queue,
            hints=hints,
        )

    def pruned(self, tasks: int) -> None:
        """So many tasks past their retention were deleted."""
        self._metrics.pruned.inc(tasks)

    def _sampled(self, tasks: Sequence[T]) -> list[T]:
        return [task for task in tasks if self._tracing.wants(task.task_traceparent)]

    @contextmanager
    def _published(
        self, name: str, tasks: Sequence[T], sampled: Sequence[T], sent: int
    ) -> Iterator[Sequence[Hint]]:
        """The hints of those sampled name the span of the batch, for whoever claims them."""
        if not sampled:
            yield tasks
            return
        batch = self._tracing.sampled_root()
        named = {task.task_id: traceparent.write(batch) for task in sampled}
        error = None
        try:
            yield [replace(task, traceparent=named.get(task.task_id)) for task in tasks]
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            for task in sampled:
                self._send(name, task, batch, sent, error)
            self._batch(name, batch, len(tasks), sent, error)

    def _waited(self, task: Dispatched) -> None:
        """What the task waited for, by the database's clock: its time, then its turn."""
        create = traceparent.parse(task.task_traceparent)
        since, due, at = map(nanoseconds, (task.since, task.due_at, task.at))
        if create is None:
            return
        attributes = words.of_task(task.task_id, task.epoch, task.attempt)
        if due > since:
            child = self._tracing.child(create)
            self._tracing.record(
                Finished("scheduled", child, create, since, due, attributes=attributes)
            )
        due = max(due, since)
        if at - due >= _STARVED_NANOSECONDS:
            child = self._tracing.child(create)
            self._tracing.record(Finished("starved", child, create, due, at, attributes=attributes))

    def _send(
        self, within: str, task: Republished, batch: SpanContext, sent: int, error: str | None
    ) -> None:
        create = traceparent.parse(task.task_traceparent)
        if create is None:
            return
        self._tracing.record(
            Finished(
                f"send {task.queue}",
                self._tracing.child(create),
                create,
                sent,
                self.now(),
                SpanKind.PRODUCER,
                {
                    **words.messaging("send", task.queue, task.task_id, task.epoch, task.attempt),
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
            Finished(
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

    def _attempt(self, end: TakenBack, sweep: SpanContext) -> None:
        """From the row: its worker is dead, or let it run far past its timeout."""
        epoch = end.epoch - 1
        create = traceparent.parse(end.traceparent)
        if create is None:
            return
        began, ended = nanoseconds(end.claimed_at), nanoseconds(end.at)
        why = {
            "holdfast.reason": str(end.reason),
            "holdfast.actor": self._actor,
            "holdfast.worker.id": str(end.owner),
        }
        self._tracing.record(
            Finished(
                f"process {end.queue}",
                attempt_context(create, end.task_id, epoch),
                create,
                began,
                ended,
                SpanKind.CONSUMER,
                {
                    **words.messaging("process", end.queue, end.task_id, epoch, end.attempt),
                    "holdfast.task.name": end.name,
                    "holdfast.worker.id": str(end.owner),
                    "holdfast.outcome": str(end.reason),
                },
                links=links_of(create, end.task_id, epoch, sweep),
                events=(
                    Happening("claimed", began),
                    Happening("taken back", ended, why),
                    *ends_as(end.state, ended, str(end.reason), 0.0),
                ),
                error=str(end.reason),
            )
        )


def _line(task: Republished, source: State, reason: Reason) -> dict[str, object]:
    return words.line(
        task.task_id,
        task.task_traceparent,
        task.epoch,
        task.attempt,
        source,
        State.QUEUED,
        reason,
    )
