"""Hints on a real Valkey: read, acked, requeued, drained, and never trusted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
import redis
from waiting import until
from wire import wire_to

from holdfast.errors import Misconfigured, Unavailable
from holdfast.model.dispatch import Hint
from holdfast.queue.hints import Delivery, HintQueue
from holdfast.settings import Settings

STREAM = "holdfast:hints:default"


@pytest.fixture
def bare(redis_url: str) -> Settings:
    """Return settings without a database, which no test here needs."""
    return Settings(redis_url=redis_url, connect_timeout_seconds=1.0)


@pytest.fixture
async def queue(bare: Settings) -> AsyncIterator[HintQueue]:
    queue = HintQueue(bare, connections=4)
    yield queue
    await queue.close()


@pytest.fixture
def server(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url, decode_responses=True)


def hints(count: int, queue: str = "default") -> list[Hint]:
    return [Hint(uuid4(), 2 * number, queue, None) for number in range(count)]


async def read(
    queue: HintQueue,
    consumer: UUID,
    *,
    count: int = 10,
    queues: tuple[str, ...] = ("default",),
    pending: bool = False,
) -> list[Delivery]:
    """Read; repeat the first read, which only creates the groups."""
    found = await queue.read(consumer, queues, count, block_seconds=0.01, pending=pending)
    return found or await queue.read(consumer, queues, count, block_seconds=0.01, pending=pending)


def entries(server: redis.Redis, queue: str = "default") -> tuple[int, int]:
    """Return the number of entries in the stream and of pending ones."""
    stream = f"holdfast:hints:{queue}"
    return server.xlen(stream), server.xpending(stream, "workers")["pending"]


async def test_hint_is_read_as_published_and_removed_by_ack(
    queue: HintQueue, server: redis.Redis
) -> None:
    batch, sampled = f"00-{'b' * 32}-{'b' * 16}-01", f"00-{'c' * 32}-{'c' * 16}-01"
    first, second = Hint(uuid4(), 4, "default", traceparent=sampled), Hint(uuid4(), 0, "default")
    await queue.publish([first, second], batch)
    found = await read(queue, uuid4())
    assert [delivery.hint for delivery in found] == [
        Hint(first.task_id, 4, "default", batch_traceparent=batch),
        second,
    ]
    assert entries(server) == (2, 2)
    await queue.ack(found)
    assert entries(server) == (0, 0)


async def test_requeued_hint_keeps_its_batch(queue: HintQueue, server: redis.Redis) -> None:
    batch = f"00-{'b' * 32}-{'b' * 16}-01"
    hint = Hint(uuid4(), 4, "default", traceparent=batch)
    await queue.publish([hint], batch)
    await queue.requeue(await read(queue, uuid4()))
    found = await read(queue, uuid4())
    assert [delivery.hint for delivery in found] == [
        Hint(hint.task_id, 4, "default", batch_traceparent=batch)
    ]
    assert entries(server) == (1, 1)
    await queue.ack(found)
    assert entries(server) == (0, 0)


async def test_each_hint_is_delivered_to_one_consumer(queue: HintQueue) -> None:
    published = hints(10)
    await queue.publish(published)
    first = await read(queue, uuid4(), count=4)
    second = await read(queue, uuid4(), count=10)
    assert [d.hint for d in first + second] == published
    assert len(first) == 4


async def test_queues_share_the_read_count(queue: HintQueue) -> None:
    await queue.publish(hints(10, "mail") + hints(10, "images"))
    found = await read(queue, uuid4(), count=6, queues=("mail", "images"))
    assert sorted(d.queue for d in found) == ["images"] * 3 + ["mail"] * 3
    await queue.ack(found)
    assert len(await read(queue, uuid4(), count=100, queues=("mail", "images"))) == 14


async def test_unacked_hint_can_be_read_again(queue: HintQueue, server: redis.Redis) -> None:
    consumer = uuid4()
    await queue.publish(hints(3))
    found = await read(queue, consumer)
    await queue.ack(found[:1])
    server.xdel(STREAM, found[1].entry_id)
    again = await read(queue, consumer, pending=True)
    assert [d.hint for d in again] == [None, found[2].hint], "one deleted, one still there"
    await queue.ack(again)
    assert await read(queue, consumer, pending=True) == []


async def test_requeued_hint_goes_to_another_consumer(
    queue: HintQueue, server: redis.Redis
) -> None:
    await queue.publish(hints(2))
    found = await read(queue, uuid4())
    await queue.requeue(found)
    assert entries(server) == (2, 0)
    assert [d.hint for d in await read(queue, uuid4())] == [d.hint for d in found]


@pytest.mark.parametrize(
    "fields",
    [
        {"rubbish": "1"},
        {"id": "no uuid", "epoch": "0"},
        {"id": str(uuid4())},
        {"id": str(uuid4()), "epoch": "two"},
        {"id": str(uuid4()), "epoch": "-1"},
        {"id": str(uuid4()), "epoch": str(2**31)},
        {"id": str(uuid4()), "epoch": "9" * 5000},
        {"id": b"\xff\xfe", "epoch": "0"},
        {"id": str(uuid4()), "epoch": "0", "traceparent": b"\xff"},
    ],
    ids=[
        "no id",
        "id is not a uuid",
        "no epoch",
        "epoch is not a number",
        "epoch below 0",
        "epoch above 31 bits",
        "epoch of 5000 digits",
        "id is not UTF-8",
        "traceparent is not UTF-8",
    ],
)
async def test_invalid_entry_is_dropped_without_hiding_others(
    queue: HintQueue, server: redis.Redis, fields: dict[str, str]
) -> None:
    (good,) = hints(1)
    server.xadd(STREAM, fields)  # type: ignore[arg-type]
    await queue.publish([good])
    found = await read(queue, uuid4())
    assert [d.hint for d in found] == [None, good]
    await queue.requeue(found)
    assert entries(server) == (1, 0)


async def test_drain_removes_dead_consumer_and_requeues_its_hints(
    queue: HintQueue, server: redis.Redis
) -> None:
    dead, living = uuid4(), uuid4()
    published = hints(450)
    await queue.publish(published)
    given = await read(queue, dead, count=450)
    server.xdel(STREAM, given[0].entry_id)
    assert await read(queue, living) == []
    assert sorted(await queue.consumers("default")) == sorted([dead, living])
    assert await queue.drain("default", dead) == 449
    assert await queue.consumers("default") == [living]
    assert entries(server) == (449, 0)
    found = await read(queue, living, count=450)
    assert {d.hint for d in found} == set(published[1:])
    assert await queue.drain("default", dead) == 0, "a second scheduler finds nothing to do"


async def test_foreign_consumers_do_not_stop_the_janitor(
    queue: HintQueue, server: redis.Redis
) -> None:
    worker = uuid4()
    await read(queue, worker)
    server.xgroup_createconsumer(STREAM, "workers", "foreign")
    server.set("holdfast:hints:text", "no stream")
    server.xadd("holdfast:hints:groupless", {"a": "b"})
    assert await queue.consumers("default") == [worker]
    assert await queue.consumers("groupless") == []
    assert await queue.consumers("never-seen") == []
    with pytest.raises(Unavailable, match="WRONGTYPE"):
        await queue.consumers("text")


async def test_generation_is_lost_with_the_hints(queue: HintQueue, server: redis.Redis) -> None:
    assert not await queue.renew_generation()
    await queue.create_generation()
    assert await queue.renew_generation()
    server.flushall()
    assert not await queue.renew_generation()
    assert server.keys() == []


async def test_poke_ends_one_wait(queue: HintQueue) -> None:
    assert await queue.wait_poke("$", 0.01) == "$"
    waiting = asyncio.create_task(queue.wait_poke("$", 10))
    await until(lambda: _blocked(queue))
    await queue.poke()
    seen = await waiting
    assert seen != "$"
    assert await queue.wait_poke(seen, 0.01) == seen
    await queue.poke()
    assert await queue.wait_poke(seen, 10) > seen, "a poke between two waits is not lost"


async def _blocked(queue: HintQueue) -> bool:
    info = await queue._redis.info("clients")
    return bool(info["blocked_clients"])


async def test_unread_stream_stays_bounded(bare: Settings, server: redis.Redis) -> None:
    queue = HintQueue(bare.model_copy(update={"queue_depth_max": 100}), connections=1)
    for _ in range(20):
        await queue.publish(hints(100))
    await queue.close()
    assert server.xlen(STREAM) <= 400 + 100, "trimmed by whole nodes of 100"


async def test_blocking_longer_than_the_reply_timeout_is_no_error(bare: Settings) -> None:
    queue = HintQueue(bare.model_copy(update={"connect_timeout_seconds": 0.3}), connections=1)
    assert await queue.read(uuid4(), ["default"], 1, block_seconds=5) == []
    assert await queue.read(uuid4(), ["default"], 1, block_seconds=5) == []
    assert await queue.wait_poke("$", 5) == "$"
    await queue.close()


async def test_blocked_read_survives_flushall(queue: HintQueue, server: redis.Redis) -> None:
    consumer = uuid4()
    assert await read(queue, consumer) == []
    waiting = asyncio.create_task(queue.read(consumer, ["default"], 1, block_seconds=5))
    await until(lambda: _blocked(queue))
    server.flushall()
    (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
    assert outcome == [] or isinstance(outcome, Unavailable)
    await queue.publish(hints(1))
    assert len(await read(queue, consumer)) == 1


async def test_late_reply_never_reaches_another_caller(bare: Settings) -> None:
    async with wire_to(bare.redis_url) as wire:
        queue = HintQueue(bare.model_copy(update={"redis_url": wire.url}), connections=1)
        await queue.create_generation()
        wire.stall()
        with pytest.raises(Unavailable, match="Redis"):
            await queue.consumers("default")
        reading = asyncio.create_task(queue.consumers("default"))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        wire.heal()
        assert await queue.renew_generation() is True
        wire.cut()
        with pytest.raises(Unavailable):
            await queue.renew_generation()
        assert await queue.renew_generation() is True
        await queue.close()


async def test_unreachable_redis_raises_unavailable() -> None:
    queue = HintQueue(Settings(redis_url="redis://127.0.0.1:1/0"), connections=1)
    for call in (
        queue.publish(hints(1)),
        queue.read(uuid4(), ["default"], 1, block_seconds=1),
        queue.renew_generation(),
        queue.consumers("default"),
        queue.poke(),
    ):
        with pytest.raises(Unavailable, match=r"Redis: .*127\.0\.0\.1:1"):
            await call
    await queue.close()


def test_invalid_url_error_names_the_variable() -> None:
    with pytest.raises(Misconfigured, match="HOLDFAST_REDIS_URL"):
        HintQueue(Settings(redis_url="localhost:6379"), connections=1)
