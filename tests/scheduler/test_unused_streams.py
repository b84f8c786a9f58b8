"""Streams of queues that nobody uses are deleted, and come back without the loss of a hint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import redis
from waiting import until

from holdfast.model.dispatch import Hint
from holdfast.model.ids import new_id
from holdfast.queue import hints
from holdfast.queue.hints import HintQueue
from holdfast.runtime.supervision import LoopSupervisor
from holdfast.scheduler.unused_streams import UnusedStreams
from holdfast.settings import Settings
from holdfast.store.store import Store
from holdfast.telemetry.logs import create_logger
from holdfast.telemetry.metrics import Metrics

STREAM = "holdfast:hints:{}"


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    store = Store(settings, connections=2, application_name="test")
    yield store
    await store.close()


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[HintQueue]:
    queue = HintQueue(settings, connections=2)
    yield queue
    await queue.close()


@pytest.fixture
def server(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url, decode_responses=True)


@pytest.fixture
def streams(store: Store, queue: HintQueue) -> UnusedStreams:
    return UnusedStreams(store, queue, LoopSupervisor(create_logger(), Metrics("scheduler")))


def hint(name: str) -> Hint:
    return Hint(uuid4(), 0, name, None)


async def emptied(queue: HintQueue, name: str) -> None:
    """Leave behind an empty stream with a group, as a worker that stopped does."""
    await queue.publish([hint(name)])
    worker = uuid4()
    await queue.read(worker, [name], 1, block_seconds=0.01)  # creates the group
    await queue.ack(await queue.read(worker, [name], 1, block_seconds=0.01))
    await queue.drain(name, worker)


async def test_stream_is_deleted_once_it_was_unused_twice(
    streams: UnusedStreams, store: Store, queue: HintQueue, server: redis.Redis
) -> None:
    await store.register(new_id(), "worker", ["old"], [])
    await emptied(queue, "old")
    assert await streams.delete() == []
    assert server.exists(STREAM.format("old"))
    assert await streams.delete() == ["old"]
    assert not server.exists(STREAM.format("old"))
    assert await streams.delete() == []


@pytest.mark.parametrize("kept_by", ["hint", "pending hint", "reader"])
async def test_stream_in_use_is_kept(
    streams: UnusedStreams, store: Store, queue: HintQueue, server: redis.Redis, kept_by: str
) -> None:
    await store.register(new_id(), "worker", ["used"], [])
    await emptied(queue, "used")
    assert await streams.delete() == []
    if kept_by != "reader":
        await queue.publish([hint("used")])
    if kept_by != "hint":
        await queue.read(uuid4(), ["used"], 1, block_seconds=0.01)
    assert await streams.delete() == []
    assert await streams.delete() == []
    assert server.exists(STREAM.format("used"))


async def test_hint_between_check_and_deletion_is_kept(
    queue: HintQueue, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await emptied(queue, "raced")
    stream = STREAM.format("raced")

    def judged_unused(*_: object) -> bool:
        server.xadd(stream, {"id": str(uuid4()), "epoch": 0})
        return True

    monkeypatch.setattr(hints, "_unused", judged_unused)
    assert not await queue.delete_unused("raced")
    assert server.xlen(stream) == 1


async def test_reader_that_waits_during_the_deletion_reads_what_comes_next(
    queue: HintQueue, server: redis.Redis
) -> None:
    """Its arrival is no change of the stream, so WATCH does not notice it."""
    await emptied(queue, "raced")
    worker, new = uuid4(), hint("raced")
    waiting = asyncio.create_task(queue.read(worker, ["raced"], 1, block_seconds=5.0))

    async def blocked() -> bool:
        return bool(server.info("clients")["blocked_clients"])

    await until(blocked)
    server.delete(STREAM.format("raced"))
    assert await waiting == []
    await queue.publish([new])
    found = await queue.read(worker, ["raced"], 1, block_seconds=0.01)
    assert [delivery.hint for delivery in found] == [new]


async def test_hints_after_the_deletion_are_read(queue: HintQueue, server: redis.Redis) -> None:
    """Both orders: the reader's group is created before the first hint, or after it."""
    for name, read_first in (("a", True), ("b", False)):
        await emptied(queue, name)
        assert await queue.delete_unused(name)
        worker, new = uuid4(), hint(name)
        if read_first:
            assert await queue.read(worker, [name], 1, block_seconds=0.01) == []
        await queue.publish([new])
        for _ in range(1 if read_first else 2):
            found = await queue.read(worker, [name], 1, block_seconds=0.01)
        assert [delivery.hint for delivery in found] == [new]


async def test_stream_that_does_not_exist_is_not_created(
    queue: HintQueue, server: redis.Redis
) -> None:
    assert await queue.unused(["gone"]) == []
    assert not await queue.delete_unused("gone")
    assert not server.exists(STREAM.format("gone"))


async def test_many_queues_take_few_round_trips(queue: HintQueue, server: redis.Redis) -> None:
    names = [f"q{number}" for number in range(1200)]
    await queue.publish([hint(name) for name in names])
    before = int(server.info("stats")["total_commands_processed"])
    assert await queue.unused(names) == []
    assert int(server.info("stats")["total_commands_processed"]) - before < 2 * len(names) + 20
