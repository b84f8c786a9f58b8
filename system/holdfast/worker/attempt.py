"""One attempt: run its handler and classify the outcome. Accesses no database."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Executor, Future
from typing import Any

import orjson

from holdfast.errors import TaskLost, Unstorable
from holdfast.handlers.cancellation import Cancellation, StopReason
from holdfast.handlers.commit import Commit
from holdfast.handlers.context import Context
from holdfast.handlers.errors import Discard, Retry
from holdfast.handlers.handler import Handler
from holdfast.handlers.result import encode_result
from holdfast.handlers.time_limit import TimeLimit
from holdfast.instrumentation.attempt_span import AttemptSpan
from holdfast.model.claim import Failure, Grant, Success
from holdfast.model.lifecycle import Reason
from holdfast.runtime.supervision import cancelled_from_outside
from holdfast.runtime.turns import TURN_BYTES, Turns
from holdfast.worker import outcome
from holdfast.worker.error_detail import explained, text_of, type_name
from holdfast.worker.outcome import Outcome, Raised, Returned

_DELAY_SECONDS_MAX = 3650 * 86400.0  # keeps due times within what Postgres can store
_NO_THREAD_SECONDS = 1.0  # until a task whose thread could not be started is due again

_REASONS = {
    StopReason.CANCEL_REQUESTED: Reason.CANCELLED,
    StopReason.TIMED_OUT: Reason.TIMED_OUT,
    StopReason.SHUTTING_DOWN: Reason.RELEASED,
}


class RunningAttempt:
    """A granted task while its handler runs.

    The attempt of a handler that never began is no failure: it is released, and not counted.
    """

    def __init__(
        self,
        grant: Grant,
        handler: Handler,
        context: Context,
        cancellation: Cancellation,
        commit: Commit,
        limit: TimeLimit,
    ) -> None:
        """Share ``cancellation``, ``commit`` and ``limit`` with the handler's ``context``."""
        self.grant = grant
        self.handler = handler
        self.context = context
        self.ended = False
        self._cancellation = cancellation
        self._commit = commit
        self._limit = limit
        self._call: asyncio.Future[Outcome | None] | None = None
        self._thread: Future[Outcome | None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._beginning = threading.Lock()  # acquired once: to begin the handler, or to call it off
        self._called_off = False

    @property
    def span(self) -> AttemptSpan | None:
        """The span of the attempt, None if not sampled."""
        return self._commit.span

    @property
    def committed(self) -> bool:
        """Whether ``ctx.transaction()`` committed: the task is SUCCEEDED already."""
        return self._commit.committed

    @property
    def commit_sent(self) -> bool:
        """Whether ``ctx.transaction()`` sent a COMMIT that succeeded or has no answer yet."""
        return self._commit.committed or self._commit.unknown

    @property
    def begun(self) -> bool:
        """Whether the handler has begun."""
        return self._beginning.locked() and not self._called_off

    @property
    def stopping(self) -> bool:
        """Whether a stop of the handler was requested."""
        return self._cancellation.requested

    async def run(
        self,
        executor: Executor,
        turns: Turns,
        *,
        uniform: float,
        result_bytes_max: int,
        late_seconds_max: float,
    ) -> Success | Failure | None:
        """Run the handler and return the end to write; None if there is none.

        Attempts take ``turns`` at decoding payloads and encoding results, outside their time.
        ``uniform`` in [0, 1) sets the jitter of the retry delay. ``late_seconds_max``: after the
        claim a handler may begin; later, the attempt could be reclaimed before its time is over.
        """
        late = f"the handler could not begin within {late_seconds_max:g} s of the claim"
        not_begun = explained(type="NotStarted", message=late)
        delay, result = 0.0, None
        text = self.grant.payload
        try:
            async with turns.expanding:
                payload = await turns.run(lambda: orjson.loads(text), len(text))
            if not self._cancellation.requested:
                self._call = self._start(executor, payload, late_seconds_max)
                result = await _outcome(self._call)
        except RuntimeError as error:  # the system has no thread left
            not_begun, delay = explained(type="NotStarted", message=str(error)), _NO_THREAD_SECONDS
        finally:
            for timer in self._timers:
                timer.cancel()
            self.ended = True
            self._forget_result()
        if self._call_off() and self._cancellation.reason is None:
            return self._failure(Reason.RELEASED, delay, not_begun)
        return await self._end(result, turns, uniform=uniform, result_bytes_max=result_bytes_max)

    async def wait_for_thread(self) -> None:
        """Wait until the thread of a plain function has ended; no-op for coroutines."""
        if self._thread is not None and not self._thread.done():
            await asyncio.gather(asyncio.wrap_future(self._thread), return_exceptions=True)

    def stop(self, reason: StopReason) -> None:
        """Request the handler to stop: sets ``ctx.cancelled`` and cancels a coroutine.

        A thread cannot be cancelled: its attempt ends here, and the fence refuses later writes.
        """
        over = self.ended or (self._call is not None and self._call.done())
        if over or self._cancellation.requested:
            return
        if self.span is not None:
            self.span.event(reason)
        self._cancellation.request(reason)
        if self._call is not None:
            self._call.cancel()

    # The beginning

    def _start(
        self, executor: Executor, payload: Any, late_seconds_max: float
    ) -> asyncio.Future[Outcome | None]:
        loop = asyncio.get_running_loop()
        inside = contextvars.copy_context() if self.span is None else self.span.inside()
        if self.handler.is_async:
            return loop.create_task(self._coroutine(payload, late_seconds_max), context=inside)
        patience = max(0.0, late_seconds_max - self._limit.late_seconds())
        self._timers.append(loop.call_later(patience, self._give_up))
        self._thread = executor.submit(inside.run, self._function, loop, payload)
        return asyncio.wrap_future(self._thread, loop=loop)

    async def _coroutine(self, payload: Any, late_seconds_max: float) -> Outcome | None:
        if self._limit.late_seconds() > late_seconds_max or not self._may_begin():
            return None
        self._begin()
        return await outcome.of_coroutine(lambda: self.handler.function(self.context, payload))

    def _function(self, loop: asyncio.AbstractEventLoop, payload: Any) -> Outcome | None:
        if not self._may_begin():
            return None
        loop.call_soon_threadsafe(self._begin)
        return outcome.of_function(lambda: self.handler.function(self.context, payload))

    def _may_begin(self) -> bool:
        """Whether the handler may begin; if so, it can no longer be called off."""
        return self._beginning.acquire(blocking=False)

    def _call_off(self) -> bool:
        """Keep the handler from beginning; return False if it has begun."""
        self._called_off = self._called_off or self._beginning.acquire(blocking=False)
        return self._called_off

    def _give_up(self) -> None:
        """End the wait for a thread."""
        if self._call_off() and self._call is not None:
            self._call.cancel()

    def _begin(self) -> None:
        """Start the time of the handler."""
        self._limit.begin()
        if not self.ended:
            loop = asyncio.get_running_loop()
            stop = loop.call_later(self._limit.seconds, self.stop, StopReason.TIMED_OUT)
            self._timers.append(stop)

    # The end

    def _forget_result(self) -> None:
        """Drop what the handler returned: only its encoding waits to be written."""
        self._call = None
        if self._thread is not None and self._thread.done():
            self._thread = None

    async def _end(
        self, result: Outcome | None, turns: Turns, *, uniform: float, result_bytes_max: int
    ) -> Success | Failure | None:
        """Return the end to write. ``result``: None if the handler was stopped."""
        reason = self._cancellation.reason
        if self.committed or reason is StopReason.LEASE_LOST:
            return None
        if isinstance(result, Raised) and result.is_a(TaskLost):
            return None
        if isinstance(result, Raised):
            return self._unsuccessful(result, uniform)
        if self._commit.unknown:
            return self._lacking("OutcomeUnknown", "the reply to COMMIT was lost", uniform)
        if result is None or reason is StopReason.TIMED_OUT:
            # Also a value that is returned after the timeout.
            return self._stopped(result, uniform)
        value = result.value
        return await turns.run(lambda: self._returned(value, uniform, result_bytes_max), _cost)

    def _returned(self, value: Any, uniform: float, result_bytes_max: int) -> Success | Failure:
        try:
            encoded = encode_result(value, result_bytes_max)
        except Unstorable as error:
            return self._failed(Raised(error), uniform)
        except BaseException as error:  # noqa: BLE001  raised by the value's own code
            text = f"encoding the result raised {type_name(error)}: {text_of(error)}"
            unstorable = Unstorable(text)
            unstorable.__cause__ = error
            return self._failed(Raised(unstorable), uniform)
        return Success(self.grant.task_id, self.grant.epoch, encoded)

    def _unsuccessful(self, raised: Raised, uniform: float) -> Failure:
        if self._commit.unknown:
            # The COMMIT may have been applied: the fence accepts one end per epoch.
            return self._failed(raised, uniform)
        if raised.is_a(Discard):
            return self._failure(Reason.DISCARDED, 0.0, raised.detail)
        if self._cancellation.reason is StopReason.SHUTTING_DOWN:  # it raised during its clean-up
            return self._failure(Reason.RELEASED, 0.0, raised.detail)
        return self._failed(raised, uniform)

    def _stopped(self, result: Returned | None, uniform: float) -> Failure:
        reason = self._cancellation.reason
        if reason is None:
            return self._lacking("CancelledError", "not cancelled by the worker", uniform)
        delay = self._delay(uniform) if reason is StopReason.TIMED_OUT else 0.0
        late = "" if result is None else ": what the handler returned afterwards does not count"
        detail = explained(type="Stopped", message=f"{reason}{late}")
        return self._failure(_REASONS[reason], delay, detail)

    def _failed(self, raised: Raised, uniform: float) -> Failure:
        asked = _asked_seconds(raised.error) if raised.is_a(Retry) else None
        return self._failure(Reason.FAILED, self._delay(uniform, asked), raised.detail)

    def _lacking(self, error: str, message: str, uniform: float) -> Failure:
        """Return a failure without an exception of the handler."""
        detail = explained(type=error, message=message)
        return self._failure(Reason.FAILED, self._delay(uniform), detail)

    def _delay(self, uniform: float, asked_seconds: float | None = None) -> float:
        """Return the delay requested by ``Retry``, else by the backoff, within the maximum."""
        delay = asked_seconds
        if delay is None:
            delay = self.handler.backoff.delay_seconds(max(1, self.grant.failures), uniform)
        # A NaN from a backoff of the application, too.
        return min(delay, _DELAY_SECONDS_MAX) if delay >= 0 else 0.0

    def _failure(self, reason: Reason, delay: float, detail: str) -> Failure:
        return Failure(self.grant.task_id, self.grant.epoch, reason, delay, detail)


async def _outcome(call: asyncio.Future[Outcome | None]) -> Outcome | None:
    """Return what the handler did; None if it was stopped, or never began.

    Raises:
        asyncio.CancelledError: this task is being cancelled.
    """
    try:
        return await call
    except asyncio.CancelledError:
        if cancelled_from_outside():
            raise
        return None


def _cost(end: Success | Failure) -> int:
    """Return the size of an encoded result; that of one which could not be encoded is unknown."""
    return len(end.result) if isinstance(end, Success) else TURN_BYTES


def _asked_seconds(error: BaseException) -> float | None:
    """Return the delay that a ``Retry`` asks for; None if it is no number of seconds."""
    try:
        seconds = float(error.after_seconds)  # type: ignore[attr-defined]
    except BaseException:  # noqa: BLE001  a subclass may do anything
        return None
    return seconds if seconds >= 0 else None
