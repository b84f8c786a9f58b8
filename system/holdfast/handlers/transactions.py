"""``ctx.transaction()``: the handler's own SQL and the task's success in one COMMIT.

The task is locked only at the end of the block, so a long block delays no other process. COMMIT is
sent once and never resent. If its reply is lost, the worker settles the outcome by releasing the
attempt as failed under the same epoch: the fence decides which of the two came first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any
from uuid import UUID

from opentelemetry.trace import Span, SpanKind
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.errors import OutcomeUnknown, TaskLost
from holdfast.handlers.commit import Commit
from holdfast.handlers.result import encode_result
from holdfast.handlers.sql_spans import database_attributes
from holdfast.handlers.transaction import Transaction
from holdfast.instrumentation.attempt_span import child_span
from holdfast.model.claim import Success
from holdfast.runtime.turns import Turns
from holdfast.store.database import classify
from holdfast.store.driver import DriverTransaction
from holdfast.store.store import Store
from holdfast.store.transaction_pool import TransactionPool


class Transactions:
    """Opens the transactions of one incarnation, on an engine with a bounded pool.

    After ``commit_timeout_seconds`` without a reply the outcome of a COMMIT counts as unknown.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        store: Store,
        worker_id: UUID,
        turns: Turns,
        *,
        result_bytes_max: int,
        commit_timeout_seconds: float,
    ) -> None:
        self._connections = TransactionPool(engine)
        self._store = store
        self._worker_id = worker_id
        self._turns = turns
        self._result_bytes_max = result_bytes_max
        self._commit_timeout_seconds = commit_timeout_seconds
        self._of_database = database_attributes(engine.url)

    @property
    def connections_used(self) -> int:
        """Return the number of connections in use."""
        return self._connections.used

    async def close(self) -> None:
        """Return the connections to the engine, which its owner disposes of."""
        await self._connections.close()

    @asynccontextmanager
    async def open(
        self, commit: Commit, remaining_seconds: Callable[[], float]
    ) -> AsyncIterator[Transaction]:
        """Open the transaction of ``Context.transaction``, which documents the exceptions."""
        commit.begin()
        try:
            async with asyncio.timeout(remaining_seconds()) as limit:
                with self._span(commit, "transaction"):
                    async with self._within(commit) as transaction:
                        yield transaction
        except TimeoutError as error:
            if not limit.expired():
                raise
            if not commit.committed:
                raise TimeoutError(
                    "ctx.transaction() was still open when the attempt timed out: rolled back"
                ) from error
        finally:
            commit.end()

    @asynccontextmanager
    async def _within(self, commit: Commit) -> AsyncIterator[Transaction]:
        """Send BEGIN, run the block, finish, COMMIT; discard the connection unless it is sound."""
        begun = await self._connections.begin()
        sound = False
        transaction = Transaction(begun.connection)
        try:
            try:
                yield transaction
                await self._finish(commit, begun, transaction.result)
            except Exception:
                with self._span(commit, "ROLLBACK"):
                    await begun.rollback()
                sound = True
                raise
            await _to_the_end(self._commit(commit, begun))
            sound = True
        finally:
            if sound:
                await self._connections.release(begun.connection, keep=not transaction.lent)
            else:
                await self._connections.discard(begun.connection)

    def _span(self, commit: Commit, name: str) -> AbstractContextManager[Span]:
        return child_span(commit.span, name, self._of_database, SpanKind.CLIENT)

    async def _finish(self, commit: Commit, begun: DriverTransaction, value: Any) -> None:
        attempt, bytes_max = commit.attempt, self._result_bytes_max
        result = await self._turns.run(lambda: encode_result(value, bytes_max), len)
        success = Success(attempt.task_id, attempt.epoch, result)
        try:
            with child_span(commit.span, "finish", {}):
                answer = await self._store.finish_in(begun, success, self._worker_id)
        except DBAPIError as error:
            raise classify(error) from error
        except OSError as error:
            raise OutcomeUnknown(f"the connection broke before COMMIT: {error}") from error
        # Not "done": the attempt may have ended meanwhile (the handler returned while a task that
        # it started was still in this block), and only one end may take effect.
        if not answer.made:
            if commit.span is not None:
                commit.span.refused()
            found = f"{answer.state} at epoch {answer.epoch}" if answer.state else "gone"
            became = "this worker ended it before, as" if answer.done else "it is"
            raise TaskLost(
                f"task {attempt.task_id} no longer belongs to this attempt (epoch "
                f"{attempt.epoch}): {became} {found}; the transaction was rolled back"
            )

    async def _commit(self, commit: Commit, begun: DriverTransaction) -> None:
        """Send COMMIT once; ``commit`` records the outcome even if a handler swallows the error."""
        commit.sent()
        try:
            async with asyncio.timeout(self._commit_timeout_seconds):
                with self._span(commit, "COMMIT"):
                    await begun.commit()
        except DBAPIError as error:
            meaning = classify(error)
            if not isinstance(meaning, OutcomeUnknown):
                commit.refused()
            raise meaning from error
        except (OSError, TimeoutError) as error:
            reason = str(error) or f"no reply within {self._commit_timeout_seconds} s"
            raise OutcomeUnknown(f"the reply to COMMIT was lost: {reason}") from error
        commit.applied()


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await ``work`` even if the caller is cancelled; then re-raise the cancellation."""
    running = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError as error:
            if running.cancelled():
                raise
            cancelled = error
    if cancelled is not None:
        raise cancelled from running.exception()
