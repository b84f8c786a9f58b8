"""How Holdfast connects to Redis."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer

from holdfast.errors import Misconfigured
from holdfast.settings import Settings


class _Connection(Connection):
    """redis-py packs commands in C over its synchronous connections only.

    In Python it was a fifth of what it costs to publish a hint. (``rediss://`` and ``unix://`` have
    connections of their own, and go on as before.)
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        return HiredisRespSerializer().pack(*args)  # type: ignore[no-any-return]


# Any: redis-py types every shape of reply at once; protocol=2 fixes which one comes.
def connect(settings: Settings, connections: int) -> Any:
    """A client with at most ``connections`` connections; no command of it ever times out.

    Raises:
        Misconfigured: the URL makes no sense.
    """
    try:
        return Redis.from_url(
            settings.redis_url,
            connection_class=_Connection,
            socket_timeout=None,
            socket_connect_timeout=settings.connect_timeout_seconds,
            max_connections=connections,
            retry=Retry(NoBackoff(), 0),  # loops are supervised; nothing retries below them
            protocol=2,
        )
    except ValueError as error:
        raise Misconfigured(f"HOLDFAST_REDIS_URL is no address of a Redis: {error}") from error
