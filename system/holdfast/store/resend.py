"""Send a statement until the database answers, and isolate the values that Postgres refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from holdfast.errors import OutcomeUnknown, Unavailable, Unstorable

T = TypeVar("T")
A = TypeVar("A")

Unanswered = OutcomeUnknown | Unavailable


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
    refuse: Callable[[T, Unstorable], object],
) -> list[A]:
    """Send a batch; if Postgres refuses a value, send its halves, down to the refused items.

    Return the answers of the others; ``refuse`` is called with each refused item and its error.
    """
    try:
        return list(await send(items))
    except Unstorable as error:
        if len(items) == 1:
            refuse(items[0], error)
            return []
    middle = len(items) // 2
    left = await send_halving(items[:middle], send, refuse)
    return left + await send_halving(items[middle:], send, refuse)
