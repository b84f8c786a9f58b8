"""Hints on Redis streams: "this task may be claimed". Losing all of them loses no task.

One stream per queue, one consumer group, one consumer per worker incarnation. No decision depends
on Redis' clocks (idle times, TTLs). Keys: ``<prefix>:hints:<queue>``, ``<prefix>:generation``
(absent after hint loss) and ``<prefix>:poke`` (wakes schedulers early).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from redis.asyncio.client import Pipeline
from redis.exceptions import ResponseError, WatchError

from holdfast.model.dispatch import Hint
from holdfast.queue.connection import connect, guarded
from holdfast.settings import Settings
from holdfast.telemetry.traceparent import is_sampled

GROUP = "workers"
_PENDING_BATCH = 200
_STREAMS_BATCH = 500
_EPOCH_MAX = 2**31 - 1
_PRESENT = b"1"  # the generation's value; only its existence matters


def stream_key(settings: Settings, queue: str) -> str:
    """Return the key of the stream of a queue."""
    return f"{settings.redis_prefix}:hints:{queue}"


def generation_key(settings: Settings) -> str:
    """Return the key that is absent after a loss of hints."""
    return f"{settings.redis_prefix}:generation"


def poke_key(settings: Settings) -> str:
    """Return the key of the stream that wakes schedulers."""
    return f"{settings.redis_prefix}:poke"


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
        self._streams = stream_key(settings, "")
        self._generation = generation_key(settings)
        self._poke = poke_key(settings)
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

    async def renew_generation(self) -> bool:
        """Write the generation again if it exists; False: Redis lost all hints, or is new.

        A read would not do: a server that is full, demoted or cannot save answers reads, and
        refuses every hint.
        """
        async with self._guarded():
            return bool(await self._redis.set(self._generation, _PRESENT, xx=True))

    async def create_generation(self) -> None:
        """Create the generation. Call only after all lost hints are republished."""
        async with self._guarded():
            await self._redis.set(self._generation, _PRESENT)

    async def wait_poke(self, after: str, seconds: float) -> str:
        """Wait for a poke newer than ``after`` (initially "$"); return the next ``after``."""
        async with self._guarded():
            found = await self._redis.xread(
                {self._poke: after}, block=self._block_milliseconds(seconds)
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

    async def unused(self, queues: Sequence[str]) -> list[str]:
        """Return those of ``queues`` that have a stream, but no hints in it and no readers."""
        found: list[str] = []
        for first in range(0, len(queues), _STREAMS_BATCH):
            part = queues[first : first + _STREAMS_BATCH]
            async with self._guarded():
                pipeline = self._redis.pipeline(transaction=False)
                for queue in part:
                    pipeline.xlen(self._stream(queue))
                    pipeline.xinfo_groups(self._stream(queue))
                # XINFO of a stream that does not exist is an error.
                answers = await pipeline.execute(raise_on_error=False)
            for queue, entries, groups in zip(part, answers[::2], answers[1::2], strict=True):
                if isinstance(groups, list) and _unused(entries, groups):
                    found.append(queue)
        return found

    async def delete_unused(self, queue: str) -> bool:
        """Delete the stream of a queue unless it is used now; return whether it was deleted.

        WATCH: a hint that comes meanwhile makes EXEC do nothing. Later ones create the stream
        again, as do readers, also one that was waiting: by ``_create_groups``, whose group starts
        at the first entry.
        """
        stream = self._stream(queue)
        async with self._guarded(), self._redis.pipeline(transaction=True) as pipeline:
            await pipeline.watch(stream)
            entries = await pipeline.xlen(stream)
            try:
                groups = await pipeline.xinfo_groups(stream)
            except ResponseError as error:
                if not _no_group(error):
                    raise
                return False
            if not _unused(entries, groups):
                return False
            pipeline.multi()
            pipeline.delete(stream)
            try:
                await pipeline.execute()
            except WatchError:
                return False
        return True

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
        start = len(self._streams)
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
            await self._redis.xadd(self._poke, {b"p": b""}, maxlen=1, approximate=False)

    def _guarded(self) -> AbstractAsyncContextManager[None]:
        return guarded(self._redis, self._timeout_seconds)

    def _block_milliseconds(self, seconds: float) -> int:
        return max(1, int(min(seconds, self._block_seconds_max) * 1000))

    def _stream(self, queue: str) -> str:
        return f"{self._streams}{queue}"

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


def _unused(entries: int, groups: Sequence[dict[str, Any]]) -> bool:
    """Whether a stream has neither hints nor readers, which own all pending hints."""
    return not entries and not any(group["consumers"] for group in groups)


def _no_group(error: ResponseError) -> bool:
    """Whether the stream or its group does not exist (any more: UNBLOCKED)."""
    return any(words in str(error) for words in ("NOGROUP", "no such key", "UNBLOCKED"))


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
