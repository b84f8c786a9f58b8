"""What a handler sees of its ``ctx.transaction()``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from sqlalchemy import CursorResult, Executable

from holdfast.handlers.commit import Commit

if TYPE_CHECKING:  # needs greenlet, which applications without a worker do not install
    from sqlalchemy.ext.asyncio import AsyncConnection

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


class Transaction:
    """An open transaction. ``result`` (JSON), set before the block ends, becomes the effect."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._lent = False
        self.result: Any = None

    @property
    def connection(self) -> AsyncConnection:
        """The SQLAlchemy connection, for libraries that need one. The block sends COMMIT."""
        self._lent = True
        return self._connection

    @property
    def lent(self) -> bool:
        """Whether the handler took the connection, whose options it may have changed."""
        return self._lent

    async def execute(
        self, statement: Executable, parameters: Parameters = None
    ) -> CursorResult[Any]:
        """Execute a statement, once per mapping if given a sequence; the result is buffered.

        Raises:
            sqlalchemy.exc.DBAPIError: Postgres rejected it, or the connection was lost.
        """
        return await self._connection.execute(statement, parameters)


# Opens the transaction of an attempt; the second argument returns its remaining seconds.
OpenTransaction = Callable[[Commit, Callable[[], float]], AbstractAsyncContextManager[Transaction]]
