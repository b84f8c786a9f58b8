"""What answers at HOLDFAST_REDIS_URL: one server that can serve hints, or something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from holdfast.errors import Unavailable
from holdfast.queue.connection import connect, guarded
from holdfast.settings import Settings

_UNSUITABLE = {
    "cluster": "a Redis Cluster, which refuses reads of several queues at once",
    "sentinel": "a Redis Sentinel, which stores nothing",
}


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A server by its own words; "unknown" if it does not say.

    ``mode``: standalone, cluster or sentinel. ``role``: master or replica.
    """

    version: str = "unknown"
    mode: str = "unknown"
    role: str = "unknown"

    @property
    def unsuitable(self) -> str | None:
        """Why no role can use it; None if they can."""
        if self.mode not in _UNSUITABLE:
            return None
        return (
            f"the server at HOLDFAST_REDIS_URL is {_UNSUITABLE[self.mode]}; "
            "Holdfast needs one standalone server (hints may be lost, so it needs no replica)"
        )


async def unsuitable_redis(settings: Settings) -> str | None:
    """Return why the server can never serve hints; None if it can, or does not answer yet."""
    redis = connect(settings, 1)
    try:
        async with guarded(redis, settings.connect_timeout_seconds):
            return (await describe(redis)).unsuitable
    except Unavailable:
        return None
    finally:
        await redis.aclose()


async def describe(redis: Any) -> RedisServer:
    """Ask the server what it is, by HELLO: the one command that no ACL can forbid."""
    try:
        reply = await redis.execute_command("HELLO")
    except ResponseError:  # older than Redis 6
        return RedisServer()
    words = [word.decode() if isinstance(word, bytes) else word for word in reply]
    facts = dict(zip(words[::2], words[1::2], strict=False))
    return RedisServer(**{name: str(facts.get(name, "unknown")) for name in RedisServer.__slots__})
