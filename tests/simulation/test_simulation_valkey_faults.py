"""Redis in a simulated run: faults, refused commands, determinism."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast
from uuid import UUID

import pytest
import redis
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ReadOnlyError, ResponseError
from valkey_world import SOON, World, hint

from chaos.simulation.environment.servers import SimulatedServerFaults
from chaos.simulation.environment.shared_servers import SharedServers
from chaos.simulation.postgres import PostgresNode
from chaos.simulation.valkey import SharedValkey
from holdfast.devstack.reaper import Reaper
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


def test_killed_server_disconnects_all_and_restarts_empty(world: World) -> None:
    async def reader() -> float:
        async with world.client() as client:
            await client.xgroup_create("s", "g", "0", mkstream=True)
            with pytest.raises(Disconnected):
                await client.xreadgroup("g", "me", {"s": ">"}, block=60_000)
            return world.loop.time()

    async def harness() -> Any:
        reading = world.start("worker-1", reader)
        async with world.client() as client:
            await client.set("a", "1")
            await asyncio.sleep(2)
            pid = world.redis.pid
            world.redis.kill()
            cut_at = await reading
            assert world.redis.pid is None
            for _ in range(4):
                with pytest.raises((Disconnected, OSError)):
                    await client.get("a")
            world.redis.start()
            await asyncio.sleep(0.1)
            assert world.redis.pid not in {None, pid}
            return cut_at, await client.get("a"), await client.dbsize()

    cut_at, value, size = world.run(harness)
    assert cut_at == pytest.approx(2, abs=SOON)
    assert (value, size) == (None, 0)


def test_graceful_restart_looks_the_same_to_clients(world: World) -> None:
    async def harness() -> tuple[Any, int]:
        async with world.client() as client:
            await client.set("a", "1")
            world.redis.stop()
            with pytest.raises((Disconnected, OSError)):
                await client.get("a")
            world.redis.start()
            await asyncio.sleep(0.1)
            return await client.get("a"), world.redis.node.incarnation

    assert world.run(harness) == (None, 2)


def test_ids_grow_when_the_clock_goes_back(world: World) -> None:
    async def harness() -> list[Any]:
        async with world.client() as client:
            ids = [await client.xadd("s", {"a": "b"}), await client.xadd("t", {"a": "b"})]
            world.redis.node.clock_offset = -1000
            ids.append(await client.xadd("s", {"a": "b"}))
            await client.flushall()
            ids.append(await client.xadd("s", {"a": "b"}))
            world.redis.node.clock_offset = 1000
            return [*ids, await client.xadd("s", {"a": "b"})]

    ids = [tuple(map(int, entry_id.split(b"-"))) for entry_id in world.run(harness)]
    assert ids == sorted(ids)
    assert ids[-1][0] - ids[0][0] == pytest.approx(1_000_000, abs=100)


def test_client_kill_reaches_all_connections(world: World) -> None:
    async def idle() -> None:
        async with world.client(single_connection_client=True) as client:
            await client.ping()
            await asyncio.sleep(2)
            with pytest.raises(Disconnected):
                await client.ping()
            assert await client.ping()  # over a new connection

    async def reader() -> float:
        async with world.client() as client:
            with pytest.raises(Disconnected):
                await client.xread({"s": "$"}, block=60_000)
            return world.loop.time()

    async def harness() -> tuple[int, float, None]:
        waiting = world.start("worker-1", reader), world.start("worker-2", idle)
        await asyncio.sleep(1)
        killed = world.redis.client_kill()
        return killed, *await asyncio.gather(*waiting)

    killed, cut_at, _ = world.run(harness)
    assert killed == 2
    assert cut_at == pytest.approx(1, abs=SOON)


def test_demoted_server_keeps_its_connections_and_refuses_writes(world: World) -> None:
    async def reader() -> tuple[str, float]:
        async with world.client(single_connection_client=True) as client:
            await client.xgroup_create("s", "g", "0", mkstream=True)
            with pytest.raises(ResponseError, match="UNBLOCKED") as unblocked:
                await client.xreadgroup("g", "me", {"s": ">"}, block=60_000)
            return str(unblocked.value), world.loop.time()

    async def harness() -> float:
        waiting = world.start("worker-1", reader)
        async with world.client(single_connection_client=True) as old:
            await old.set("a", "1")
            await asyncio.sleep(1)
            pid = world.redis.pid
            world.redis.demote()
            assert world.redis.pid not in {None, pid}
            for _ in range(2):
                assert await old.get("a") == b"1", "it answers reads"
                with pytest.raises(ReadOnlyError):
                    await old.set("a", "2")
            async with world.client() as new:
                assert await new.dbsize() == 0, "the address leads to an empty server"
                await new.set("b", "1")
            with pytest.raises(ReadOnlyError):
                await old.set("a", "2")
        assert world.redis.refused_as_replica() == 3
        _, ended_at = await waiting
        return float(ended_at)

    ended_at = world.run(harness)
    assert ended_at == pytest.approx(1, abs=SOON)
    world.server.reset()
    assert world.redis.refused_as_replica() == 0, "demoted servers end with their run"


def test_refusals_of_an_earlier_demotion_are_no_evidence(world: World) -> None:
    faults = SimulatedServerFaults(cast("PostgresNode", None), world.redis)  # it is not used

    async def harness() -> None:
        async with world.client(single_connection_client=True) as old:
            await old.set("a", "1")

            async def write() -> None:
                with pytest.raises(ReadOnlyError):
                    await old.set("a", "2")

            first = await faults.run("demote", "redis", write)
            assert first == (True, {"readonly": 1, "moved": True})
            second = await faults.run("demote", "redis", lambda: asyncio.sleep(1))
            assert second == (False, {"readonly": 0, "moved": True})

    world.run(harness)


def test_restricted_clients_may_do_what_the_user_of_the_roles_may(world: World) -> None:
    world.redis.restrict()

    async def harness() -> None:
        for _ in range(3):  # at once, after a restart, after a failover
            async with world.client() as client:
                assert await client.xadd("holdfast:hints:default", {"id": "1"})
                for forbidden in (("KEYS", "*"), ("GET", "holdfast:generation"), ("SET", "a", 1)):
                    with pytest.raises(ResponseError, match="permission"):
                        await client.execute_command(*forbidden)
            world.redis.demote()

    world.run(harness)
    world.server.reset()
    assert world.server.ask(b"ACL", b"USERS") == [b"default"]


def test_paused_server_answers_later(world: World) -> None:
    async def harness() -> tuple[Any, float]:
        async with world.client() as client:
            await client.set("a", "1")
            world.loop.pause(world.redis.node)
            asyncio.get_running_loop().call_later(30, world.loop.resume, world.redis.node)
            return await client.get("a"), world.loop.time()

    value, at = world.run(harness)
    assert value == b"1"
    assert at == pytest.approx(30, abs=0.1)


def test_server_without_memory_refuses_hints_and_loses_none(world: World) -> None:
    async def harness() -> list[bool]:
        async with world.queue() as queue:
            assert await queue.read(UUID(int=1), ["default"], 5, block_seconds=1) == []
            await queue.create_generation()
            await queue.publish([hint(1)])
            before = world.redis.refused_writes()
            world.redis.limit_memory(1)
            for refused in (queue.publish([hint(2)]), queue.renew_generation(), queue.poke()):
                with pytest.raises(Unavailable, match="maxmemory"):
                    await refused
            assert world.redis.refused_writes() >= before + 3
            deliveries = await queue.read(UUID(int=1), ["default"], 5, block_seconds=1)
            await queue.ack(deliveries)
            world.redis.limit_memory(0)
            assert await queue.renew_generation()
            return [delivery.hint == hint(1) for delivery in deliveries]

    assert world.run(harness) == [True]


def _crowd(world: World) -> Callable[[], Awaitable[list[str]]]:
    """Concurrent readers and writers; the seed decides which reader gets which entry."""

    async def worker(number: int) -> int:
        got = 0
        async with world.queue() as queue:
            while world.loop.time() < 6:
                deliveries = await queue.read(UUID(int=number), ["default"], 3, block_seconds=1)
                got += len(deliveries)
                await asyncio.sleep(0.05)
                await queue.ack(deliveries)
        return got

    async def scheduler() -> None:
        async with world.queue() as queue:
            for number in range(38):
                await queue.publish([hint(number), hint(number, 2)])
                await asyncio.sleep(0.1)
            await queue.drain("default", UUID(int=1))
            await queue.consumers("default")

    async def harness() -> list[str]:
        mains = [lambda n=n: worker(n) for n in range(3)]
        working = [world.start(f"worker-{n}", main) for n, main in enumerate(mains)]
        scheduling = world.start("scheduler-1", scheduler)
        await asyncio.sleep(3)
        world.redis.flush()
        await asyncio.sleep(1)
        world.redis.client_kill()
        outcomes = await asyncio.gather(*working, scheduling, return_exceptions=True)
        return [repr(outcome) for outcome in outcomes]

    return harness


def test_same_seed_gives_the_same_digest(server: SharedValkey) -> None:
    digests = []
    for seed in (1, 2, 1, 1):
        world = World(server, seed)
        outcomes = world.run(_crowd(world))
        digests.append((world.loop.trace.digest, outcomes))
        world.close()
    assert digests[0] == digests[2] == digests[3]
    assert digests[0] != digests[1]


def test_reset_leaves_nothing_for_the_next_run(server: SharedValkey) -> None:
    world = World(server)

    async def harness() -> None:
        async with world.client() as client:
            await client.set("a", "1")
        world.redis.kill()

    world.run(harness)
    world.close()
    assert server.pid is None
    again = World(server)

    async def empty() -> int:
        async with again.client() as client:
            return int(await client.dbsize())

    assert again.run(empty) == 0
    again.close()


def test_server_leaves_nothing_behind(reaper: Reaper) -> None:
    with SharedValkey(reaper) as valkey:
        assert valkey._process is not None
        directory = valkey._process.data_dir
        with redis.Redis.from_url(valkey._process.url()) as client:
            assert client.ping()
    assert not directory.exists()
    assert valkey.pid is None


@pytest.mark.parametrize(
    "command",
    [
        "BLPOP list 0",
        "SUBSCRIBE news",
        "MONITOR",
        "TIME",
        "EXPIRE a 10",
        "SET a 1 EX 10",
        "XAUTOCLAIM s g me 1000 0",
        "CONFIG SET maxmemory 1",
        "CLIENT LIST",
        "WAIT 1 0",
    ],
)
def test_unsupported_commands_are_refused(world: World, command: str) -> None:
    async def client() -> str:
        async with world.client() as client:
            assert await client.set("a", "1")
            with pytest.raises(ResponseError) as error:
                await client.execute_command(*command.split())
            return str(error.value)

    async def harness() -> Any:
        return await world.start("worker-1", client)

    error = world.run(harness)
    first = command.partition(" ")[0]
    assert error.startswith(f"{first} ")
    assert "is not simulated" in error
    assert "worker-1" in error
    assert any(first in refused for refused in world.loop.refused)
