"""Observe the hints that Redis holds, over a connection of the harness."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from chaos.history.rest import QueueHints

_TIMEOUT_SECONDS = 5.0
# Sends a command; returns its reply as RESP2 has it.
Ask = Callable[..., Awaitable[Any]]


async def hints_left_at(url: str, prefix: str) -> tuple[QueueHints, ...]:
    """Return the hints of each queue that has a stream, over a new connection to ``url``."""
    async with Redis.from_url(url, protocol=2, socket_timeout=_TIMEOUT_SECONDS) as redis:
        redis.response_callbacks.clear()  # redis-py would shape the replies
        return await hints_left(redis.execute_command, prefix)


async def hints_left(ask: Ask, prefix: str) -> tuple[QueueHints, ...]:
    """Return the hints of each queue that has a stream; ``prefix``: of the product's keys."""
    before = f"{prefix}:hints:"
    found = []
    for key in sorted(await ask(b"KEYS", f"{before}*".encode())):
        try:
            groups = await ask(b"XINFO", b"GROUPS", key)
        except ResponseError:  # deleted meanwhile
            continue
        values = [dict(zip(group[::2], group[1::2], strict=True)) for group in groups]
        found.append(
            QueueHints(
                queue=key.decode().removeprefix(before),
                entries=await ask(b"XLEN", key),
                pending=sum(group[b"pending"] for group in values),
            )
        )
    return tuple(found)
