"""Send a statement until the database answers, and smaller if Postgres refuses it as it is.

Postgres refuses a batch for the value of one item, or because it takes longer than the role's or
the database's ``statement_timeout``. Either way nothing was done, and a smaller one may succeed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from holdfast.errors import OutcomeUnknown, StatementCancelled, Unavailable, Unstorable

T = TypeVar("T")
A = TypeVar("A")

Unanswered = OutcomeUnknown | Unavailable

_GROW_SECONDS = 60.0


async def until_answered(
    send: Callable[[], Awaitable[A]], again: Callable[[Unanswered], Awaitable[bool]]
) -> A:
    """Call ``send`` until it returns.

    ``again`` is awaited after each unanswered send: it pauses and returns whether to resend. If it
    returns False, the error of that send is raised.
    """
    while True:
        try:
            return await send()
        except (OutcomeUnknown, Unavailable) as error:
            if not await again(error):
                raise


async def send_halving(
    items: Sequence[T],
    send: Callable[[Sequence[T]], Awaitable[Sequence[A]]],
    refuse: Callable[[T, Unstorable], object] | None = None,
) -> list[A]:
    """Send a batch; if Postgres refuses a value or cancels the statement, send its halves.

    Return the answers of the items that are not refused; ``refuse`` is called with each refused
    item and its error. A single item that is cancelled raises StatementCancelled, after earlier
    items were sent: send them all again.
    """
    try:
        return list(await send(items))
    except Unstorable as error:
        if refuse is None:
            raise
        if len(items) == 1:
            refuse(items[0], error)
            return []
    except StatementCancelled:
        if len(items) == 1:
            raise
    middle = len(items) // 2
    left = await send_halving(items[:middle], send, refuse)
    return left + await send_halving(items[middle:], send, refuse)


class BatchSize:
    """The size of a batch that is sent again and again, halved whenever Postgres cancels it.

    It doubles after a minute without a cancellation, up to ``maximum``: the limit may have been
    raised, or the statement had only waited for a lock.
    """

    def __init__(self, maximum: int) -> None:
        self.rows = maximum
        self._maximum = maximum
        self._changed_at = 0.0

    async def send(self, send: Callable[[int], Awaitable[A]]) -> A:
        """Call ``send`` with the number of rows to handle.

        Raises:
            StatementCancelled: the next batch is half as large, as the message says.
        """
        now = asyncio.get_running_loop().time()
        if self.rows < self._maximum and now - self._changed_at >= _GROW_SECONDS:
            self.rows, self._changed_at = min(2 * self.rows, self._maximum), now
        sent = self.rows
        try:
            return await send(sent)
        except StatementCancelled as error:
            self.rows, self._changed_at = max(1, sent // 2), now
            raise StatementCancelled(
                f"{error} (a batch of {sent}; the next one has at most {self.rows})"
            ) from error
