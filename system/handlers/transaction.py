"""``ctx.transaction()``: the handler's own SQL and the task's success in one COMMIT.

No lock on the task is taken until the end of the block, so a long block keeps nobody waiting. A
COMMIT is sent once. If its reply is lost nobody repeats it: the worker settles it by releasing
the attempt as failed under the same epoch, and the fence decides which of the two came first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, Executable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncTransaction

from system.database import checkout, classify, discard
from system.errors import OutcomeUnknown, TaskLost, Unavailable
from system.handlers.context import Commit, Context
from system.handlers.result import encode_result
from system.handlers.sql_spans import database_attributes
from system.records import Success
from system.store import Store

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


class Transaction:
    """An open transaction. Set ``result`` (JSON) before the block ends; it becomes the effect."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.result: Any = None

    @property
    def connection(self) -> AsyncConnection:
        """The SQLAlchemy connection, for libraries that want one. Leave COMMIT to the block."""
        return self._connection

    async def execute(
        self, statement: Executable, parameters: Parameters = None
    ) -> CursorResult[Any]:
        """Run one statement, or one for each mapping in a sequence; the result is buffered.

        Raises:
            sqlalchemy.exc.DBAPIError: Postgres refused it, or the connection was lost.
        """
        return await self._connection.execute(statement, parameters)


class Transactions:
    """Opens the transactions of one worker incarnation, on a bounded engine of their own.

    ``commit_timeout_seconds``: a COMMIT unanswered for so long has an unknown outcome.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        store: Store,
        worker_id: UUID,
        *,
        result_bytes_max: int,
        commit_timeout_seconds: float,
    ) -> None:
        self._engine = engine
        self._store = store
        self._worker_id = worker_id
        self._result_bytes_max = result_bytes_max
        self._commit_timeout_seconds = commit_timeout_seconds
        self._of_database = database_attributes(engine.url)

    @asynccontextmanager
    async def begin(self, context: Context) -> AsyncIterator[Transaction]:
        """What ``ctx.transaction()`` enters; see there for what it raises."""
        _refuse_second(context)
        context.commit = Commit.OPEN
        try:
            async with asyncio.timeout(context.remaining_seconds()) as limit:
                with context.client_span("transaction", self._of_database):
                    async with self._within(context) as transaction:
                        yield transaction
        except TimeoutError as error:
            if not limit.expired():
                raise
            if context.commit is not Commit.DONE:
                raise TimeoutError(
                    "ctx.transaction() was still open when the attempt's time ended: rolled back"
                ) from error
        finally:
            if context.commit is Commit.OPEN:
                context.commit = Commit.NONE

    @asynccontextmanager
    async def _within(self, context: Context) -> AsyncIterator[Transaction]:
        """BEGIN, the body, the finish, COMMIT; the connection is pooled again only if sound."""
        connection = await _connect(self._engine)
        sound = False
        try:
            root = await connection.begin()
            transaction = Transaction(connection)
            try:
                yield transaction
                await self._finish(context, transaction)
            except Exception:
                with context.client_span("ROLLBACK", self._of_database):
                    await root.rollback()
                sound = True
                raise
            await _to_the_end(self._commit(context, root))
            sound = True
        finally:
            await (connection.close() if sound else discard(connection))

    async def _finish(self, context: Context, transaction: Transaction) -> None:
        result = encode_result(transaction.result, self._result_bytes_max)
        success = Success(context.task_id, context.epoch, result)
        try:
            with context.span("finish"):
                answer = await self._store.finish_in(
                    transaction.connection, success, self._worker_id
                )
        except DBAPIError as error:
            raise classify(error) from error
        except OSError as error:
            raise OutcomeUnknown(f"the connection broke before COMMIT: {error}") from error
        # Not "done": the attempt may have ended otherwise meanwhile (the handler returned while a
        # task of its own still held this block), and only one end may take effect.
        if not answer.made:
            if context.trace is not None:
                context.trace.refused()
            found = f"{answer.state} at epoch {answer.epoch}" if answer.state else "gone"
            raise TaskLost(
                f"task {context.task_id} no longer belongs to this attempt (epoch "
                f"{context.epoch}): it is {found}; the transaction was rolled back"
            )

    async def _commit(self, context: Context, root: AsyncTransaction) -> None:
        """Send COMMIT once. The state on the context is right even if nobody hears the error."""
        context.commit = Commit.UNKNOWN
        try:
            async with asyncio.timeout(self._commit_timeout_seconds):
                with context.client_span("COMMIT", self._of_database):
                    await root.commit()
        except DBAPIError as error:
            meaning = classify(error)
            if not isinstance(meaning, OutcomeUnknown):
                context.commit = Commit.OPEN  # refused, for example by a deferred constraint
            raise meaning from error
        except (OSError, TimeoutError) as error:
            reason = str(error) or f"no reply within {self._commit_timeout_seconds} s"
            raise OutcomeUnknown(f"the reply to COMMIT was lost: {reason}") from error
        context.commit = Commit.DONE


def _refuse_second(context: Context) -> None:
    """At most one transaction of an attempt may ever reach COMMIT: the fence sees only attempts."""
    if context.commit is Commit.OPEN:
        raise RuntimeError("this attempt already has a ctx.transaction() open: use that one")
    if context.commit is Commit.DONE:
        raise RuntimeError(
            "ctx.transaction() has committed and the task is SUCCEEDED: nothing can be added; "
            "put all SQL of a task into one transaction"
        )
    if context.commit is Commit.UNKNOWN:
        raise RuntimeError(
            "the COMMIT of this attempt's transaction has an unknown outcome: let OutcomeUnknown "
            "reach the worker, which settles it"
        )


async def _connect(engine: AsyncEngine) -> AsyncConnection:
    try:
        return await checkout(engine)
    except PoolTimeout as error:
        raise Unavailable(
            "every connection for ctx.transaction() is in use: keep transactions short, or raise "
            "HOLDFAST_TRANSACTION_CONNECTIONS"
        ) from error
    except (OSError, DBAPIError) as error:
        raise Unavailable(f"cannot reach Postgres for ctx.transaction(): {error}") from error


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await ``work`` even if the caller is cancelled meanwhile; the cancellation then goes on."""
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
