"""What a handler knows of its attempt, and what it may ask of its worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime, timedelta
from uuid import UUID

from opentelemetry.trace import Span as OpenTelemetrySpan
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from holdfast.handlers.cancellation import Cancellation, StopReason
from holdfast.handlers.commit import Commit
from holdfast.handlers.transaction import OpenTransaction, Transaction
from holdfast.instrumentation.attempt_span import child_span
from holdfast.model.claim import Grant
from holdfast.telemetry.trace_context import Attributes


class Context:
    """The first argument of every handler: one attempt of one task.

    ``effect_key`` (the task's id as text) is the same in every attempt: give it to receivers that
    can drop duplicates. ``epoch`` grows with every attempt: give it to receivers that can fence.
    """

    def __init__(
        self,
        grant: Grant,
        *,
        clock: Callable[[], float],
        started: float,
        cancellation: Cancellation | None = None,
        commit: Commit | None = None,
        open_transaction: OpenTransaction | None = None,
    ) -> None:
        """``clock`` is the loop's ``time``, ``started`` its value when the task was claimed, or a
        little before: never after.

        ``open_transaction`` (``Transactions.open``) is None for plain functions.
        """
        self._grant = grant
        self._clock = clock
        self._ends = started + grant.timeout_seconds
        self._cancellation = cancellation or Cancellation()
        self._commit = commit or Commit(grant)
        self._span = self._commit.span
        self._open_transaction = open_transaction

    @property
    def task_id(self) -> UUID:
        """The task's id."""
        return self._grant.task_id

    @property
    def name(self) -> str:
        """The task's name."""
        return self._grant.name

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return self._grant.queue

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1; attempts lost to dead workers count too."""
        return self._grant.attempt

    @property
    def max_attempts(self) -> int:
        """How many attempts may fail before the task is FAILED."""
        return self._grant.max_attempts

    @property
    def epoch(self) -> int:
        """The fencing token of this attempt: odd, and larger than that of any earlier one."""
        return self._grant.epoch

    @property
    def effect_key(self) -> str:
        """The key under which this task's effect is counted, the same in every attempt."""
        return str(self._grant.task_id)

    @property
    def traceparent(self) -> str | None:
        """W3C trace context to hand on: of the span that is current, else of the task.

        None where the task has none.
        """
        return self._grant.traceparent if self._span is None else self._span.traceparent

    def span(
        self, name: str, **attributes: AttributeValue
    ) -> AbstractContextManager[OpenTelemetrySpan]:
        """``with ctx.span("resize", pixels=n) as span:`` a step of this attempt in its trace.

        Below the step it stands in, in coroutines and threads alike; costs nothing where the trace
        is not sampled. No payloads, no secrets: traces leave this system.
        """
        return child_span(self._span, name, attributes)

    def client_span(
        self, name: str, attributes: Attributes
    ) -> AbstractContextManager[OpenTelemetrySpan]:
        """The same for a call to another system, with attributes by its conventions.

        Within it ``traceparent`` is that of the call: send it along.
        """
        return child_span(self._span, name, attributes, SpanKind.CLIENT)

    @property
    def claimed_at(self) -> datetime:
        """When this attempt began, by the database's clock (aware)."""
        return self._grant.claimed_at

    @property
    def deadline(self) -> datetime:
        """When this attempt times out, by the database's clock (aware)."""
        return self._grant.claimed_at + timedelta(seconds=self._grant.timeout_seconds)

    def remaining_seconds(self) -> float:
        """Seconds until the attempt times out, never negative; needs no clock in step with any."""
        return max(0.0, self._ends - self._clock())

    @property
    def cancelled(self) -> bool:
        """Whether this attempt should stop; ``cancel_reason`` says why. Any thread may ask."""
        return self._cancellation.requested

    @property
    def cancel_reason(self) -> StopReason | None:
        """Why this attempt should stop, None while it should not."""
        return self._cancellation.reason

    async def wait_cancelled(self) -> None:
        """Wait until this attempt should stop (async handlers)."""
        await self._cancellation.wait()

    def cancelled_within(self, seconds: float) -> bool:
        """Sleep up to ``seconds``, less if this attempt should stop; whether it should.

        For plain functions, in place of ``time.sleep``.

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
        """``async with ctx.transaction() as tx:`` the handler's SQL, committed with its success.

        Raises:
            RuntimeError: not an async handler, or this attempt already has or had a transaction
                that may have been committed.
            TaskLost: (at the end of the block) the lease was lost; everything was rolled back.
            OutcomeUnknown: (at the end) the reply to COMMIT was lost; do not repeat it.
            TimeoutError: the attempt's time ended before the block did; rolled back.
        """
        if self._open_transaction is None:
            raise RuntimeError(
                "ctx.transaction() is not available in a plain function, which runs in a thread: "
                "write the handler as `async def`"
            )
        return self._open_transaction(self._commit, self.remaining_seconds)


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
