"""Connect to Redis."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer

from holdfast.errors import Misconfigured
from holdfast.settings import Settings


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
