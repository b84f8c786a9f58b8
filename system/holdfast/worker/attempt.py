"""One attempt: run its handler and classify the outcome. Accesses no database."""

from __future__ import annotations

import asyncio
import contextvars
import traceback
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
from holdfast.instrumentation.attempt_span import AttemptSpan
from holdfast.model.claim import Failure, Grant, Success
from holdfast.model.lifecycle import Reason
from holdfast.runtime.supervision import cancelled_from_outside

_DELAY_SECONDS_MAX = 3650 * 86400.0  # keeps due times within what Postgres can store
_TRACEBACK_CHARACTERS_MAX = 16_000
_MESSAGE_CHARACTERS_MAX = 2_000

_REASONS = {
    StopReason.CANCEL_REQUESTED: Reason.CANCELLED,
    StopReason.TIMED_OUT: Reason.TIMED_OUT,
    StopReason.SHUTTING_DOWN: Reason.RELEASED,
}


class RunningAttempt:
    """A granted task while its handler runs."""

    def __init__(
        self,
        grant: Grant,
        handler: Handler,
        context: Context,
        cancellation: Cancellation,
        commit: Commit,
    ) -> None:
        """Share ``cancellation`` and ``commit`` with the handler's ``context``."""
        self.grant = grant
        self.handler = handler
        self.context = context
        self.ended = False
        self._cancellation = cancellation
        self._commit = commit
        self._call: asyncio.Future[Any] | None = None
        self._thread: Future[Any] | None = None

    @property
    def span(self) -> AttemptSpan | None:
        """The span of the attempt, None if not sampled."""
        return self._commit.span

    @property
    def committed(self) -> bool:
        """Whether ``ctx.transaction()`` committed: the task is SUCCEEDED already."""
        return self._commit.committed

    @property
    def stopping(self) -> bool:
        """Whether a stop of the handler was requested."""
        return self._cancellation.requested

    async def run(
        self, executor: Executor, *, uniform: float, result_bytes_max: int
    ) -> Success | Failure | None:
        """Run the handler and return the end to write; None if there is none.

        ``uniform`` in [0, 1) sets the jitter of the retry delay.
        """
        loop = asyncio.get_running_loop()
        timeout = loop.call_later(self.context.remaining_seconds(), self.stop, StopReason.TIMED_OUT)
        value: Any = asyncio.CancelledError()
        try:
            if not self._cancellation.requested:
                self._call = self._start(loop, executor)
                value = await _outcome(self._call)
        finally:
            timeout.cancel()
            self.ended = True
        return self._end(value, uniform=uniform, result_bytes_max=result_bytes_max)

    async def wait_for_thread(self) -> None:
        """Wait until the thread of a plain function has ended; no-op for coroutines."""
        if self._thread is not None and not self._thread.done():
            await asyncio.gather(asyncio.wrap_future(self._thread), return_exceptions=True)

    def stop(self, reason: StopReason) -> None:
        """Request the handler to stop: sets ``ctx.cancelled`` and cancels a coroutine.

        A thread cannot be cancelled: its attempt ends here, and the fence refuses later writes.
        """
        if self.ended or self._cancellation.requested:
            return
        if self.span is not None:
            self.span.event(reason)
        self._cancellation.request(reason)
        if self._call is not None:
            self._call.cancel()

    def _start(self, loop: asyncio.AbstractEventLoop, executor: Executor) -> asyncio.Future[Any]:
        function, payload = self.handler.function, self.grant.payload
        inside = contextvars.copy_context() if self.span is None else self.span.inside()
        if self.handler.is_async:
            return loop.create_task(_contained(function(self.context, payload)), context=inside)
        self._thread = executor.submit(inside.run, _contained_call, function, self.context, payload)
        return asyncio.wrap_future(self._thread, loop=loop)

    def _end(
        self, value: Any, *, uniform: float, result_bytes_max: int
    ) -> Success | Failure | None:
        if self.committed or self._cancellation.reason is StopReason.LEASE_LOST:
            return None
        if isinstance(value, TaskLost):
            return None
        if isinstance(value, BaseException) or self._commit.unknown:
            return self._unsuccessful(value, uniform)
        try:
            result = encode_result(value, result_bytes_max)
        except Unstorable as error:
            return self._failed(error, uniform)
        return Success(self.grant.task_id, self.grant.epoch, result)

    def _unsuccessful(self, value: Any, uniform: float) -> Failure:
        if self._commit.unknown:
            # The COMMIT may have been applied: the fence accepts one end per epoch.
            return self._failed(value, uniform)
        if isinstance(value, asyncio.CancelledError):
            return self._stopped(value, uniform)
        if isinstance(value, Discard):
            return self._failure(Reason.DISCARDED, 0.0, value)
        if self._cancellation.reason is StopReason.SHUTTING_DOWN:  # it raised during its clean-up
            return self._failure(Reason.RELEASED, 0.0, value)
        return self._failed(value, uniform)

    def _stopped(self, error: asyncio.CancelledError, uniform: float) -> Failure:
        reason = self._cancellation.reason
        if reason is None:  # the handler cancelled itself
            return self._failed(error, uniform)
        delay = self._delay(uniform) if reason is StopReason.TIMED_OUT else 0.0
        explanation = {"type": "Stopped", "message": str(reason)}
        return Failure(
            self.grant.task_id,
            self.grant.epoch,
            _REASONS[reason],
            delay,
            orjson.dumps({"error": explanation}).decode(),
        )

    def _failed(self, error: Any, uniform: float) -> Failure:
        asked = error.after_seconds if isinstance(error, Retry) else None
        return self._failure(Reason.FAILED, self._delay(uniform, asked), error)

    def _delay(self, uniform: float, asked_seconds: float | None = None) -> float:
        """Return the delay requested by ``Retry``, else by the backoff, within the maximum."""
        delay = asked_seconds
        if delay is None:
            delay = self.handler.backoff.delay_seconds(max(1, self.grant.failures), uniform)
        return min(delay, _DELAY_SECONDS_MAX)

    def _failure(self, reason: Reason, delay: float, error: Any) -> Failure:
        return Failure(self.grant.task_id, self.grant.epoch, reason, delay, _detail(error))


async def _outcome(call: asyncio.Future[Any]) -> Any:
    """Return the result or exception of the call; raise only the cancellation of this task."""
    try:
        return await call
    except asyncio.CancelledError as error:
        if cancelled_from_outside():
            raise
        return error
    except BaseException as error:  # noqa: BLE001  every outcome of a handler is classified
        return error


async def _contained(call: Any) -> Any:
    """Await a coroutine so that ``sys.exit`` in it fails the attempt, not the worker."""
    try:
        return await call
    except asyncio.CancelledError as error:
        if cancelled_from_outside():
            raise
        raise _explained(error) from error
    except (SystemExit, KeyboardInterrupt) as error:
        raise _explained(error) from error


def _contained_call(function: Any, context: Context, payload: Any) -> Any:
    """Call a plain function likewise; StopIteration cannot pass through a future."""
    try:
        return function(context, payload)
    except (SystemExit, KeyboardInterrupt, StopIteration) as error:
        raise _explained(error) from error


def _explained(error: BaseException) -> RuntimeError:
    if isinstance(error, SystemExit):
        return RuntimeError(f"the handler called sys.exit({error.code!r})")
    return RuntimeError(f"the handler raised {type(error).__name__}: {error}")


def _detail(error: Any) -> str:
    """Return the error as JSON that Postgres can store: bounded, without NUL and surrogates."""
    explanation = {"type": type(error).__name__, "message": str(error)[:_MESSAGE_CHARACTERS_MAX]}
    if isinstance(error, BaseException) and not isinstance(error, Retry | Discard):
        lines = "".join(traceback.format_exception(error))
        if len(lines) > _TRACEBACK_CHARACTERS_MAX:  # either end may be one very long message
            half = _TRACEBACK_CHARACTERS_MAX // 2
            lines = f"{lines[:half]}\n...\n{lines[-half:]}"
        explanation["traceback"] = lines
    return orjson.dumps(
        {"error": {key: _clean(text) for key, text in explanation.items()}}
    ).decode()


def _clean(text: str) -> str:
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
