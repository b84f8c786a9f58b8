"""The argument ``ctx`` of a handler: its attempt, and the services of its worker."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime, timedelta
from uuid import UUID

from opentelemetry.trace import Span as OpenTelemetrySpan
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from holdfast.handlers.cancellation import Cancellation, StopReason
from holdfast.handlers.commit import Commit
from holdfast.handlers.time_limit import TimeLimit
from holdfast.handlers.transaction import OpenTransaction, Transaction
from holdfast.instrumentation.attempt_span import child_span
from holdfast.model.claim import Grant
from holdfast.telemetry.trace_context import Attributes


class Context:
    """The first argument of every handler: one attempt of one task.

    - the task: ``task_id``, ``name``, ``queue``, ``max_attempts``
    - the attempt: ``attempt``, ``epoch``, ``claimed_at``
    - effects elsewhere: ``effect_key`` for receivers that deduplicate, ``epoch`` for those that
      fence
    - time: ``deadline``, ``remaining_seconds()``
    - cancellation: ``cancelled``, ``cancel_reason``, ``wait_cancelled()``, ``cancelled_within()``
    - SQL committed together with the task's success: ``transaction()``
    - tracing: ``span()``, ``client_span()``, ``traceparent``
    """

    def __init__(
        self,
        grant: Grant,
        *,
        limit: TimeLimit,
        cancellation: Cancellation | None = None,
        commit: Commit | None = None,
        open_transaction: OpenTransaction | None = None,
    ) -> None:
        """Create the context of a granted attempt; only the worker and tests do.

        ``limit``: begun by the worker with the handler. ``open_transaction``:
        ``Transactions.open``; None for plain functions.
        """
        self._grant = grant
        self._limit = limit
        self._cancellation = cancellation or Cancellation()
        self._commit = commit or Commit(grant)
        self._span = self._commit.span
        self._open_transaction = open_transaction

    @property
    def task_id(self) -> UUID:
        """The id of the task, the same in every attempt."""
        return self._grant.task_id

    @property
    def name(self) -> str:
        """The name of the task, by which its handler was chosen."""
        return self._grant.name

    @property
    def queue(self) -> str:
        """The queue of the task."""
        return self._grant.queue

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1; attempts lost with their worker count too."""
        return self._grant.attempt

    @property
    def max_attempts(self) -> int:
        """The number of failed attempts after which the task is FAILED."""
        return self._grant.max_attempts

    @property
    def epoch(self) -> int:
        """The fencing token of this attempt: odd, and larger than in any earlier attempt."""
        return self._grant.epoch

    @property
    def effect_key(self) -> str:
        """The idempotency key of the task's effect: its id, the same in every attempt."""
        return str(self._grant.task_id)

    @property
    def claimed_at(self) -> datetime:
        """When this attempt was claimed, by the database's clock (an aware datetime)."""
        return self._grant.claimed_at

    @property
    def deadline(self) -> datetime:
        """When this attempt times out, by the database's clock (an aware datetime)."""
        late = max(0.0, self._limit.late_seconds())
        return self._grant.claimed_at + timedelta(seconds=late + self._limit.seconds)

    def remaining_seconds(self) -> float:
        """Return the seconds until the timeout, at least 0; independent of wall clocks.

        The time begins with the handler: at its first line the whole timeout is left.
        """
        return self._limit.remaining_seconds()

    @property
    def cancelled(self) -> bool:
        """Whether this attempt should stop; may be read from any thread."""
        return self._cancellation.requested

    @property
    def cancel_reason(self) -> StopReason | None:
        """Why this attempt should stop; None while it should not."""
        return self._cancellation.reason

    async def wait_cancelled(self) -> None:
        """Wait until this attempt should stop; for async handlers."""
        await self._cancellation.wait()

    def cancelled_within(self, seconds: float) -> bool:
        """Sleep up to ``seconds`` and return early, with True, if this attempt should stop.

        For plain functions, instead of ``time.sleep``.

        Raises:
            RuntimeError: called on the event loop, which it would block.
        """
        if _on_event_loop():
            raise RuntimeError(
                "ctx.cancelled_within() blocks and is for plain functions; "
                "in an async handler await ctx.wait_cancelled()"
            )
        return self._cancellation.wait_in_thread(seconds)

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Commit SQL together with the task's success: ``async with ctx.transaction() as tx:``.

        Raises:
            RuntimeError: the handler is not async, or this attempt has an open transaction or one
                that may have been committed.
            TaskLost: (at the end of the block) the task was lost; everything was rolled back.
            OutcomeUnknown: (at the end) the reply to COMMIT was lost; do not retry.
            Unavailable: no connection could be opened; nothing was done.
            TimeoutError: the attempt timed out before the block ended; rolled back.
        """
        if self._open_transaction is None:
            raise RuntimeError(
                "ctx.transaction() is not available in a plain function, which runs in a thread: "
                "write the handler as `async def`"
            )
        return self._open_transaction(self._commit, self._limit.remaining_seconds)

    @property
    def traceparent(self) -> str | None:
        """W3C trace context to propagate: of the current span, else of the task, if any."""
        return self._grant.traceparent if self._span is None else self._span.traceparent

    def span(
        self, name: str, **attributes: AttributeValue
    ) -> AbstractContextManager[OpenTelemetrySpan]:
        """Record a step of this attempt: ``with ctx.span("resize", pixels=n) as span:``.

        Spans nest, in coroutines and in threads; an unsampled trace costs nothing. Do not record
        payloads or secrets: traces leave this system.
        """
        return child_span(self._span, name, attributes)

    def client_span(
        self, name: str, attributes: Attributes
    ) -> AbstractContextManager[OpenTelemetrySpan]:
        """Record a call to another system, with attributes by OpenTelemetry's conventions.

        Inside the block ``traceparent`` is that of the call: send it with the request.
        """
        return child_span(self._span, name, attributes, SpanKind.CLIENT)


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
