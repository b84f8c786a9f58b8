"""Hints on Redis streams: "this task may be claimed". Losing all of them loses no task.

One stream per queue, one consumer group, one consumer per worker incarnation. No decision depends
on Redis' clocks (idle times, TTLs). Keys: ``<prefix>:hints:<queue>``, ``<prefix>:generation``
(absent after hint loss) and ``<prefix>:poke`` (wakes schedulers early).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError, ResponseError

from holdfast.errors import Unavailable
from holdfast.model.dispatch import Hint
from holdfast.queue.connection import connect
from holdfast.settings import Settings
from holdfast.telemetry.event_names import ErrorCode
from holdfast.telemetry.traceparent import is_sampled

GROUP = "workers"
_PENDING_BATCH = 200
_EPOCH_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Delivery:
    """A hint as read from a stream; ``hint`` is None if the entry is not valid."""

    queue: str
    entry_id: bytes
    hint: Hint | None


class HintQueue:
    """All commands over one small pool. Every method raises Unavailable if Redis does not answer.

    redis-py closes the connection of a command that is cancelled or times out: its late reply never
    reaches the next caller. The constructor raises Misconfigured if the URL is invalid.
    """

    def __init__(self, settings: Settings, *, connections: int) -> None:
        self._prefix = settings.redis_prefix
        # Bounds the stream of a queue without workers, whose hints are republished repeatedly.
        self._stream_entries_max = settings.queue_depth_max * 4
        # Blocking commands must return before the command timeout.
        self._block_seconds_max = settings.connect_timeout_seconds / 2
        self._timeout_seconds = settings.connect_timeout_seconds
        self._redis = connect(settings, connections)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    # Schedulers

    async def publish(self, hints: Sequence[Hint], batch_traceparent: str | None = None) -> None:
        """Append the hints to their streams. After an error some may have been appended.

        ``batch_traceparent``: the span of this batch, added to the hints of sampled tasks.
        """
        async with self._guarded():
            pipeline = self._redis.pipeline(transaction=False)
            for hint in hints:
                sampled = is_sampled(hint.traceparent)
                self._append(pipeline, hint, batch_traceparent if sampled else None)
            await pipeline.execute()

    async def generation(self) -> str | None:
        """Return the generation of hints; None if Redis lost all hints, or is new."""
        async with self._guarded():
            value: bytes | None = await self._redis.get(f"{self._prefix}:generation")
        return value.decode() if value is not None else None

    async def set_generation(self, generation: str) -> None:
        """Set the generation unless one exists. Call only after all lost hints are republished."""
        async with self._guarded():
            await self._redis.set(f"{self._prefix}:generation", generation, nx=True)

    async def wait_poke(self, after: str, seconds: float) -> str:
        """Wait for a poke newer than ``after`` (initially "$"); return the next ``after``."""
        async with self._guarded():
            found = await self._redis.xread(
                {f"{self._prefix}:poke": after}, block=self._block_milliseconds(seconds)
            )
        return found[0][1][-1][0].decode() if found else after

    async def consumers(self, queue: str) -> list[UUID]:
        """Return the incarnations with a consumer on this queue."""
        async with self._guarded():
            try:
                found = await self._redis.xinfo_consumers(self._stream(queue), GROUP)
            except ResponseError as error:
                if _no_group(error):
                    return []
                raise
        ids = (_uuid(consumer["name"]) for consumer in found)
        return [consumer for consumer in ids if consumer]

    async def queues(self) -> list[str]:
        """Return the queues that have a stream."""
        pattern = self._stream("")
        async with self._guarded():
            scan = self._redis.scan_iter(match=f"{pattern}*", count=1000, _type="stream")
            keys = [key.decode(errors="replace") async for key in scan]
        return sorted(key.removeprefix(pattern) for key in keys)

    async def drain(self, queue: str, consumer: UUID) -> int:
        """Append the pending hints of a dead incarnation again, then remove its consumer.

        Return how many hints were appended.
        """
        moved = 0
        while True:
            async with self._guarded():
                pending = await self._redis.xpending_range(
                    self._stream(queue), GROUP, "-", "+", _PENDING_BATCH, consumername=str(consumer)
                )
                ids = [entry["message_id"] for entry in pending]
                if not ids:
                    await self._redis.xgroup_delconsumer(self._stream(queue), GROUP, str(consumer))
                    return moved
                reads = self._redis.pipeline(transaction=False)
                for entry_id in ids:
                    reads.xrange(self._stream(queue), entry_id, entry_id)
                found = [entries[0] for entries in await reads.execute() if entries]
            lost = [_delivery(queue, entry_id, fields) for entry_id, fields in found]
            await self._replace(queue, ids, [d.hint for d in lost if d.hint])
            moved += sum(d.hint is not None for d in lost)

    # Workers

    async def read(
        self,
        consumer: UUID,
        queues: Sequence[str],
        count: int,
        *,
        block_seconds: float,
        pending: bool = False,
    ) -> list[Delivery]:
        """Read at most ``count`` (>= the number of queues) new hints; wait for the first one.

        ``pending``: read hints already delivered to this consumer and not acked, without waiting.
        """
        streams = {self._stream(queue): "0" if pending else ">" for queue in queues}
        async with self._guarded():
            try:
                found = await self._redis.xreadgroup(
                    GROUP,
                    str(consumer),
                    streams,
                    count=count // len(queues),  # Redis counts per stream
                    block=self._block_milliseconds(block_seconds),
                )
            except ResponseError as error:
                if not _no_group(error):
                    raise
                await self._create_groups(queues)
                return []
        start = len(self._stream(""))
        return [
            _delivery(stream.decode()[start:], entry_id, fields)
            for stream, entries in found
            for entry_id, fields in entries
        ]

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Remove hints that were claimed or cannot be."""
        await self._per_queue(deliveries, again=False)

    async def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """Return hints that were read but not claimed to the stream, for other workers."""
        await self._per_queue(deliveries, again=True)

    # API

    async def poke(self) -> None:
        """Wake sleeping schedulers: a task is due now."""
        async with self._guarded():
            await self._redis.xadd(f"{self._prefix}:poke", {b"p": b""}, maxlen=1, approximate=False)

    async def memory_policy(self) -> str:
        """Return the server's ``maxmemory-policy``, or "unknown"; it should be "noeviction"."""
        async with self._guarded():
            try:
                found = await self._redis.config_get("maxmemory-policy")
            except ResponseError:  # managed servers hide their configuration
                return "unknown"
        return str(next(iter(found.values()), "unknown"))

    @asynccontextmanager
    async def _guarded(self) -> AsyncIterator[None]:
        """Apply one timeout to all commands in the block, and translate errors to Unavailable.

        redis-py's timeout would guard each reply of a pipeline separately, which takes a third of
        the cost of publishing a hint.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                yield
        except TimeoutError as error:
            raise Unavailable(
                f"Redis: no answer within {self._timeout_seconds} s", code=ErrorCode.REDIS_TIMEOUT
            ) from error
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis: {str(error) or type(error).__name__}") from error

    def _block_milliseconds(self, seconds: float) -> int:
        return max(1, int(min(seconds, self._block_seconds_max) * 1000))

    def _stream(self, queue: str) -> str:
        return f"{self._prefix}:hints:{queue}"

    def _append(self, pipeline: Pipeline, hint: Hint, batch_traceparent: str | None) -> None:
        fields: dict[Any, Any] = {b"id": str(hint.task_id), b"epoch": hint.epoch}
        if batch_traceparent:
            fields[b"traceparent"] = batch_traceparent
        pipeline.xadd(self._stream(hint.queue), fields, maxlen=self._stream_entries_max)

    async def _create_groups(self, queues: Sequence[str]) -> None:
        for queue in queues:
            try:
                await self._redis.xgroup_create(self._stream(queue), GROUP, "0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def _per_queue(self, deliveries: Sequence[Delivery], *, again: bool) -> None:
        for queue in dict.fromkeys(delivery.queue for delivery in deliveries):
            mine = [delivery for delivery in deliveries if delivery.queue == queue]
            hints = [delivery.hint for delivery in mine if delivery.hint and again]
            await self._replace(queue, [delivery.entry_id for delivery in mine], hints)

    async def _replace(self, queue: str, ids: Sequence[bytes], hints: Sequence[Hint]) -> None:
        async with self._guarded():
            pipeline = self._redis.pipeline(transaction=True)
            for hint in hints:
                self._append(pipeline, hint, hint.batch_traceparent)
            pipeline.xack(self._stream(queue), GROUP, *ids)
            pipeline.xdel(self._stream(queue), *ids)
            await pipeline.execute()


def _no_group(error: ResponseError) -> bool:
    return "NOGROUP" in str(error) or "no such key" in str(error)


def _delivery(queue: str, entry_id: bytes, fields: dict[bytes, bytes] | None) -> Delivery:
    """Decode an entry. Its hint is None if it is invalid: other programs may write to Redis."""
    try:
        values = fields or {}  # None: trimmed before it was read
        batch = values.get(b"traceparent")
        hint = Hint(
            task_id=UUID(values[b"id"].decode()),
            epoch=int(values[b"epoch"]),
            queue=queue,
            batch_traceparent=batch.decode() if batch else None,
        )
    except (KeyError, ValueError):
        return Delivery(queue, entry_id, None)
    return Delivery(queue, entry_id, hint if 0 <= hint.epoch <= _EPOCH_MAX else None)


def _uuid(name: bytes) -> UUID | None:
    try:
        return UUID(name.decode())
    except ValueError:
        return None
