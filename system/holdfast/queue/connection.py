"""Connect to Redis, and tell what its errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import (
    BusyLoadingError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
)

from holdfast.errors import Misconfigured, Unavailable
from holdfast.settings import Settings
from holdfast.telemetry.event_names import ErrorCode

# The server at the other end is not the primary (any more): the address may lead to another one.
_OTHER_SERVER = (ReadOnlyError, MovedError, BusyLoadingError, MasterDownError)


class _Connection(Connection):
    """Packs commands in C, which redis-py does only on synchronous connections.

    Packing in Python took a fifth of the cost of publishing a hint. (``rediss://`` and ``unix://``
    use other connection classes and still do.)
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        return HiredisRespSerializer().pack(*args)  # type: ignore[no-any-return]


# Any: redis-py's types cover the replies of both protocols; protocol=2 fixes one.
def connect(settings: Settings, connections: int) -> Any:
    """Create a client with at most ``connections`` connections and no command timeout.

    Raises:
        Misconfigured: the URL is invalid.
    """
    try:
        return Redis.from_url(
            settings.redis_url,
            connection_class=_Connection,
            socket_timeout=None,
            socket_connect_timeout=settings.connect_timeout_seconds,
            max_connections=connections,
            retry=Retry(NoBackoff(), 0),  # supervised loops retry, nothing below them
            protocol=2,
        )
    except ValueError as error:
        raise Misconfigured(f"HOLDFAST_REDIS_URL is not a valid Redis URL: {error}") from error


@asynccontextmanager
async def guarded(redis: Any, timeout_seconds: float) -> AsyncIterator[None]:
    """Apply one timeout to all commands in the block, and translate errors to Unavailable.

    redis-py's timeout would guard each reply of a pipeline separately, which takes a third of the
    cost of publishing a hint. A connection whose server cannot write for us is not kept: after a
    failover the demoted server keeps its connections, and would go on refusing for ever.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            yield
    except TimeoutError as error:
        raise Unavailable(
            f"Redis: no answer within {timeout_seconds} s", code=ErrorCode.REDIS_TIMEOUT
        ) from error
    except (RedisError, OSError) as error:
        if isinstance(error, _OTHER_SERVER):
            await redis.connection_pool.update_active_connections_for_reconnect()
            await redis.connection_pool.disconnect(inuse_connections=False)
        raise Unavailable(f"Redis: {str(error) or type(error).__name__}") from error
