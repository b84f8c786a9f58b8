"""Blocking reads in virtual time: redis-py and the hint queue, unmodified, on a real Valkey."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from redis.exceptions import ResponseError
from valkey_world import SOON, World, hint

from chaos.history.rest import QueueHints
from chaos.observers.hints import hints_left
from chaos.simulation.environment.shared_servers import SharedServers
from chaos.simulation.valkey import SharedValkey
from holdfast.errors import Unavailable


@pytest.fixture
def server(simulation_servers: SharedServers) -> SharedValkey:
    simulation_servers.valkey.reset()
    return simulation_servers.valkey


@pytest.fixture
def world(server: SharedValkey) -> Iterator[World]:
    world = World(server)
    yield world
    world.close()


@pytest.mark.parametrize("protocol", [2, 3])
def test_waiting_read_is_answered_when_data_is_written(world: World, protocol: int) -> None:
    async def reader() -> tuple[Any, float]:
        async with world.client(protocol=protocol) as client:
            await client.xgroup_create("s", "g", "0", mkstream=True)
            found = await client.xreadgroup("g", "me", {"s": ">"}, block=60_000)
            return found, world.loop.time()

    async def writer() -> tuple[Any, float]:
        async with world.client() as client:
            await asyncio.sleep(40)
            written = await client.xadd("s", {"a": "b"})
            return written, world.loop.time()

    async def harness() -> tuple[Any, Any]:
        reading, writing = world.start("worker-1", reader), world.start("api-1", writer)
        return await reading, await writing

    began = time.monotonic()
    (found, read_at), (entry_id, written_at) = world.run(harness)
    assert time.monotonic() - began < 10
    entries = found[0][1] if protocol == 2 else found[b"s"][0]
    assert entries == [(entry_id, {b"a": b"b"})]
    assert 40 < written_at < 40 + SOON
    assert abs(read_at - written_at) < SOON
    # `*` uses the virtual clock.
    assert entry_id.decode().startswith("17672256")  # 2026-01-01T00:00:40Z


@pytest.mark.parametrize("protocol", [2, 3])
def test_waiting_read_times_out_in_virtual_time(world: World, protocol: int) -> None:
    async def reader() -> tuple[list[Any], list[float]]:
        async with world.client(protocol=protocol) as client:
            await client.xgroup_create("s", "g", "0", mkstream=True)
            found, took = [], []
            for block in (50, 120_000):
                start = world.loop.time()
                found.append(await client.xreadgroup("g", "me", {"s": ">"}, block=block))
                found.append(await client.xread({"s": "$", "t": "$"}, block=block))
                took.append((world.loop.time() - start) / 2)
            return found, took

    async def harness() -> Any:
        return await world.start("worker-1", reader)

    found, took = world.run(harness)
    assert not any(found)
    assert took == pytest.approx([0.05, 120.0], abs=SOON)


def test_waiting_reads_are_served_in_order_and_entries_once(world: World) -> None:
    served: list[tuple[str, list[bytes]]] = []

    async def reader(name: str, after: float) -> None:
        async with world.client() as client:
            await asyncio.sleep(after)
            for _ in range(2):
                found = await client.xreadgroup("g", name, {"s": ">"}, count=1, block=60_000)
                served.append((name, [fields[b"n"] for _, fields in found[0][1]]))

    async def harness() -> None:
        async with world.client() as client:
            await client.xgroup_create("s", "g", "0", mkstream=True)
            readers = [
                world.start("worker-1", lambda: reader("second", 1.0)),
                world.start("worker-2", lambda: reader("first", 0.5)),
            ]
            await asyncio.sleep(2)
            for number in range(4):
                await client.xadd("s", {"n": number})
                await asyncio.sleep(1)
            await asyncio.gather(*readers)

    world.run(harness)
    assert served == [("first", [b"0"]), ("second", [b"1"]), ("first", [b"2"]), ("second", [b"3"])]


def test_transaction_wakes_several_reads_at_exec(world: World) -> None:
    async def reader() -> list[bytes]:
        async with world.client() as client:
            found = await client.xreadgroup("g", "x", {"s": ">", "t": ">"}, count=1, block=60_000)
            return sorted(fields[b"n"] for _, entries in found for _, fields in entries)

    async def harness() -> tuple[Any, list[str]]:
        async with world.client() as client:
            for stream in "st":
                await client.xgroup_create(stream, "g", "0", mkstream=True)
            readers = [world.start(f"worker-{n}", reader) for n in (1, 2)]
            await asyncio.sleep(1)
            pipeline = client.pipeline(transaction=True)
            for number in range(3):
                pipeline.xadd("s", {"n": number})
            pipeline.xadd("t", {"n": "t"})
            ids = await pipeline.execute()
            return await asyncio.gather(*readers), [i.decode() for i in ids]

    (first, second), ids = world.run(harness)
    assert sorted([*first, *second]) == [b"0", b"1", b"t"]
    assert {len(first), len(second)} == {2, 1}  # the first reader got one of each stream
    assert [entry_id[-2:] for entry_id in ids[:3]] == ["-0", "-1", "-2"]


def test_commands_after_a_waiting_read_are_answered_in_order(world: World) -> None:
    async def talker() -> list[Any]:
        async with world.client() as client:
            await client.xgroup_create("s", "g", "0", mkstream=True)
            pipeline = client.pipeline(transaction=False)
            pipeline.set("a", "1").get("a")
            pipeline.xreadgroup("g", "me", {"s": ">"}, block=60_000)
            pipeline.incr("a")
            pipeline.xreadgroup("g", "me", {"s": ">"}, block=3_000)
            pipeline.get("a")
            return [*await pipeline.execute(), world.loop.time()]

    async def harness() -> tuple[Any, Any]:
        talking = world.start("worker-1", talker)
        async with world.client() as client:
            await asyncio.sleep(10)
            before = await client.get("a")
            entry_id = await client.xadd("s", {"x": "y"})
            return before, (entry_id, await talking)

    before, (entry_id, answers) = world.run(harness)
    assert before == b"1"
    *answers, end = answers
    assert answers == [True, b"1", [[b"s", [(entry_id, {b"x": b"y"})]]], 2, [], b"2"]
    assert end == pytest.approx(13, abs=SOON)


def test_read_from_the_end_is_woken_only_by_later_entries(world: World) -> None:
    async def reader() -> Any:
        async with world.client() as client:
            return await client.xread({"s": "$", "none": "$"}, block=60_000)

    async def harness() -> tuple[Any, bytes]:
        async with world.client() as client:
            await client.xadd("s", {"n": "old"})
            reading = world.start("scheduler-1", reader)
            await asyncio.sleep(1)
            await client.set("other", "1")
            newer = await client.xadd("s", {"n": "new"})
            return await reading, newer

    found, newer = world.run(harness)
    assert found == [[b"s", [(newer, {b"n": b"new"})]]]


def test_deleted_stream_ends_the_wait_of_a_group_only(world: World) -> None:
    """As in the real server: XREADGROUP fails with NOGROUP, XREAD keeps waiting."""

    async def group() -> tuple[str, float]:
        async with world.client() as client:
            await client.xgroup_create("s", "g", "0", mkstream=True)
            with pytest.raises(ResponseError) as error:
                await client.xreadgroup("g", "me", {"s": ">"}, block=60_000)
            return str(error.value), world.loop.time()

    async def plain() -> float:
        async with world.client() as client:
            assert not await client.xread({"s": "$"}, block=60_000)
            return world.loop.time()

    async def harness() -> Any:
        waiting = world.start("worker-1", group), world.start("scheduler-1", plain)
        await asyncio.sleep(5)
        assert world.redis.flush() == 1
        return await asyncio.gather(*waiting)

    (error, at), gave_up = world.run(harness)
    assert "NOGROUP" in error
    assert at == pytest.approx(5, abs=SOON)
    assert gave_up == pytest.approx(60, abs=0.1)


def test_dead_reader_gets_nothing(world: World) -> None:
    async def reader() -> Any:
        client = world.client()
        found = await client.xreadgroup("g", "me", {"s": ">"}, count=1, block=60_000)
        await client.aclose()
        return found

    async def harness() -> Any:
        async with world.client() as client:
            await client.xgroup_create("s", "g", "0", mkstream=True)
            world.start("worker-1", reader)
            await asyncio.sleep(1)
            survivor = world.start("worker-2", reader)
            await asyncio.sleep(1)
            assert len(world.redis.waiting) == 2
            world.loop.kill(world.clients[0])
            await asyncio.sleep(1)
            assert len(world.redis.waiting) == 1
            await client.xadd("s", {"n": 1})
            return await survivor

    assert len(world.run(harness)[0][1]) == 1


def test_hint_queue_works_unmodified(world: World) -> None:
    consumer = UUID(int=77)

    async def worker() -> list[tuple[int, float]]:
        got: list[tuple[int, float]] = []
        async with world.queue() as queue:
            while len(got) < 3:
                deliveries = await queue.read(consumer, ["default"], 2, block_seconds=5)
                got += [(d.hint.task_id.int, world.loop.time()) for d in deliveries if d.hint]
                if len(got) == 2:  # the second
                    await queue.requeue(deliveries)
                else:
                    await queue.ack(deliveries)
        return got

    async def harness() -> Any:
        working = world.start("worker-1", worker)
        await asyncio.sleep(20)
        async with world.queue() as queue:
            assert not await queue.renew_generation()
            await queue.create_generation()
            await queue.publish([hint(1), hint(2, 2)])
            got = await working
            facts = await queue.renew_generation(), await queue.consumers("default")
            assert await queue.drain("default", consumer) == 0
            await queue.poke()
            poked = await queue.wait_poke("0", 2)
            waited = world.loop.time()
            assert await queue.wait_poke("$", 2) == "$"
            return got, facts, poked, world.loop.time() - waited

    got, facts, poked, waited = world.run(harness)
    # The waiting reader got only the first: it was the only entry at that instant.
    assert [number for number, _ in got] == [1, 2, 2]
    assert got[0][1] == pytest.approx(20, abs=SOON)
    assert facts == (True, [consumer])
    assert poked.startswith("17672256")
    assert waited == pytest.approx(1.5, abs=0.6)
    seen = [(h.task_id, h.epoch) for h in world.redis.hints]
    assert seen == [(str(UUID(int=n)), epoch) for n, epoch in ((1, 0), (2, 2), (2, 2))]
    assert world.redis.hints[0].at == pytest.approx(1767225620, abs=SOON)
    assert world.redis.counters["worker-1", "XREADGROUP"] >= 4


def test_hints_left_are_those_not_acked_and_not_read(world: World) -> None:
    async def harness() -> list[tuple[QueueHints, ...]]:
        consumer, found = UUID(int=9), list[tuple[QueueHints, ...]]()
        async with world.queue() as queue:
            found.append(await hints_left(world.redis.ask, "holdfast"))
            await queue.read(consumer, ["default"], 1, block_seconds=0.1)  # creates the group
            await queue.publish([hint(1), hint(2), hint(3)])
            read = await queue.read(consumer, ["default"], 2, block_seconds=0.1)
            found.append(await hints_left(world.redis.ask, "holdfast"))
            await queue.ack(read)
            found.append(await hints_left(world.redis.ask, "holdfast"))
            await queue.ack(await queue.read(consumer, ["default"], 2, block_seconds=0.1))
            found.append(await hints_left(world.redis.ask, "holdfast"))
        return found

    assert world.run(harness) == [
        (),
        (QueueHints(queue="default", entries=3, pending=2),),
        (QueueHints(queue="default", entries=1, pending=0),),
        (QueueHints(queue="default", entries=0, pending=0),),
    ]


def test_hint_queue_is_unavailable_without_the_server(world: World) -> None:
    async def harness() -> None:
        async with world.queue() as queue:
            await queue.publish([hint(1)])
            world.redis.kill()
            with pytest.raises(Unavailable):
                await queue.publish([hint(2)])
            world.redis.start()
            await asyncio.sleep(0.1)
            await queue.publish([hint(3)])

    world.run(harness)
    assert [seen.task_id for seen in world.redis.hints] == [str(UUID(int=n)) for n in (1, 3)]
    assert [node.incarnation for node in world.loop.nodes if node.name == "redis"] == [1, 2]
