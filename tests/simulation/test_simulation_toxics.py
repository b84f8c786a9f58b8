from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from simulated_network import PORT, WIRE, Recorder, World, passes

from chaos.simulation.network.network import Toxic


@pytest.fixture
def world() -> World:
    return World()


async def connect_with_toxic(
    world: World, name: str, stream: Any = "upstream", **attributes: int
) -> tuple[Recorder, Recorder, Toxic]:
    """Open a connection to a server, then add the toxic."""
    await world.serve()
    client, server = await world.connect()
    toxic = Toxic(name, stream, attributes)
    world.edge.add(toxic)
    return client, server, toxic


def test_latency_delays_one_direction_and_not_the_close(world: World) -> None:
    async def main() -> None:
        client, server, _ = await connect_with_toxic(world, "latency", latency=2000)
        began = world.now
        client.transport.write(b"slow")
        server.transport.write(b"fast")
        await passes(1)
        assert client.data == b"fast"
        client.transport.write(b"er")
        assert world.edge.counters()["held_bytes"] == 6
        await passes(5)
        (first, _, _), (second, _, _) = server.seen[1:]
        assert 2 < first - began < 2 + WIRE
        assert 3 < second - began < 3 + 2 * WIRE
        closed = world.now
        client.transport.close()
        await passes(1)
        assert server.at("eof") - closed < WIRE
        assert world.edge.counters()["slowed_messages"] == 2

    world.run(main)


def test_removing_latency_releases_held_bytes(world: World) -> None:
    async def main() -> None:
        client, server, toxic = await connect_with_toxic(world, "latency", latency=600_000)
        client.transport.write(b"held ")
        await passes(60)
        client.transport.write(b"back")
        client.transport.close()
        await passes(60)
        assert server.what == ["made"]
        world.edge.remove(toxic)
        began = world.now
        await passes()
        assert server.data == b"held back"
        assert server.what[-2:] == ["eof", "lost"]
        assert server.seen[-1][0] - began < 3 * WIRE

    world.run(main)


def test_held_bytes_survive_their_sender(world: World) -> None:
    async def main() -> None:
        await world.serve()
        toxic = Toxic("latency", "upstream", {"latency": 600_000})
        world.network.edge("zombie->server").add(toxic)

        async def zombie() -> None:
            _, writer = await asyncio.open_connection(world.network.host("server"), PORT)
            writer.write(b"late")
            await asyncio.sleep(3600)

        node = world.loop.start("zombie", zombie)
        await passes(1)
        world.loop.kill(node)
        await passes(60)
        world.network.edge("zombie->server").remove(toxic)
        await passes()
        assert world.accepted[0].what == ["made", "data", "eof", "lost"]

    world.run(main)


def test_equal_toxics_coexist(world: World) -> None:
    async def main() -> None:
        client, server, toxic = await connect_with_toxic(world, "latency", latency=1000)
        world.edge.add(toxic)
        for delay in (2, 1, 0):
            began = world.now
            client.transport.write(b"x")
            await passes(5)
            assert delay < server.seen[-1][0] - began < delay + WIRE
            world.edge.remove(toxic)

    world.run(main)


def test_toxics_of_one_stream_add_up(world: World) -> None:
    async def main() -> None:
        client, server, _ = await connect_with_toxic(world, "latency", latency=1000)
        world.edge.add(Toxic("latency", "upstream", {"latency": 500}))
        began = world.now
        client.transport.write(b"x")
        await passes(3)
        assert 1.5 < server.at("data") - began < 1.5 + WIRE

    world.run(main)


@pytest.mark.parametrize("timeout", [0, 3000])
def test_timeout_drops_and_its_removal_closes(world: World, timeout: int) -> None:
    async def main() -> None:
        client, server, toxic = await connect_with_toxic(world, "timeout", timeout=timeout)
        began = world.now
        await passes(2)
        client.transport.write(b"lost")
        await passes(2)  # the timer restarts with every chunk
        assert server.what == client.what == ["made"]
        if timeout:
            await passes(2)
            assert 5 < server.at("eof") - began < 5 + WIRE
        else:
            await passes(100)
            world.edge.remove(toxic)
            removed = world.now
            await passes()
            assert server.at("eof") - removed < WIRE
        assert client.what == server.what == ["made", "eof", "lost"]
        assert world.edge.counters()["dropped_messages"] == 1
        assert world.edge.open == 0

    world.run(main)


def test_reset_peer_resets_new_connections_once_something_flows(world: World) -> None:
    async def main() -> None:
        old, _, _ = await connect_with_toxic(world, "reset_peer", timeout=1000)
        new, server = await world.connect()
        await passes(5)
        assert old.what == new.what == ["made"]
        began = world.now
        for client in (old, new):
            client.transport.write(b"swallowed")
        await passes(5)
        assert 1 < new.at("lost") - began < 1 + WIRE
        assert new.what == server.what == ["made", "lost"]
        assert isinstance(new.error, ConnectionResetError)
        assert isinstance(server.error, ConnectionResetError)
        assert old.what == ["made", "eof", "lost"]  # opened before the toxic was added
        assert all(each.data == b"" for each in world.accepted)

    world.run(main)


def test_bandwidth_delays_bytes(world: World) -> None:
    async def main() -> None:
        client, server, _ = await connect_with_toxic(world, "bandwidth", rate=10)
        began = world.now
        client.transport.write(bytes(2500))
        await passes(1)
        pieces = [(at - began, len(data)) for at, what, data in server.seen if what == "data"]
        assert [size for _, size in pieces] == [1000, 1000, 500]
        for (at, _), due in zip(pieces, (0.1, 0.2, 0.25), strict=True):
            assert due < at < due + 2 * WIRE

    world.run(main)


def test_zero_bandwidth_stalls_without_loss(world: World) -> None:
    async def main() -> None:
        client, server, toxic = await connect_with_toxic(world, "bandwidth", rate=0)
        client.transport.write(b"stalled")
        await passes(1000)
        assert server.data == b""
        world.edge.remove(toxic)
        began = world.now
        await passes()
        assert server.data == b"stalled"
        assert server.at("data") - began < WIRE

    world.run(main)


def test_slicer_splits_messages(world: World) -> None:
    async def main() -> None:
        client, server, toxic = await connect_with_toxic(
            world, "slicer", average_size=10, size_variation=4, delay=10_000
        )
        text = bytes(range(200))
        client.transport.write(text)
        await passes(1)
        pieces = [(at, data) for at, what, data in server.seen if what == "data"]
        assert server.data == text
        assert len(pieces) > 10
        assert max(len(data) for _, data in pieces) <= 14
        for (before, _), (after, _) in itertools.pairwise(pieces):
            assert after - before == pytest.approx(0.01, abs=WIRE)
        client.transport.write(text)
        await passes(0.025)
        world.edge.remove(toxic)
        await passes(WIRE)
        assert server.data == 2 * text

    world.run(main)


def test_slow_close_delays_only_the_close(world: World) -> None:
    async def main() -> None:
        client, server, toxic = await connect_with_toxic(world, "slow_close", delay=4000)
        second, other = await world.connect()
        began = world.now
        for each in (client, second):
            each.transport.write(b"x")
        client.transport.close()
        await passes(5)
        assert server.at("data") - began < WIRE
        assert 4 < server.at("eof") - began < 4 + WIRE
        second.transport.close()
        await passes(1)
        world.edge.remove(toxic)
        await passes()
        assert other.what == ["made", "data", "eof", "lost"]

    world.run(main)


def test_limit_data_closes_within_a_reply(world: World) -> None:
    async def main() -> None:
        client, server, _ = await connect_with_toxic(world, "limit_data", "downstream", bytes=6)
        server.transport.write(b"four")
        await passes()
        server.transport.write(b"more")
        await passes()
        assert client.data == b"fourmo"
        assert client.what == ["made", "data", "data", "eof", "lost"]
        assert server.what == ["made", "eof", "lost"]

    world.run(main)


def test_down_closes_and_refuses_until_up(world: World) -> None:
    async def main() -> None:
        client, server, _ = await connect_with_toxic(world, "latency", latency=600_000)
        client.transport.write(b"lost with the proxy")
        world.edge.down()
        await passes(2)
        assert client.what == server.what == ["made", "eof", "lost"]
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(world.network.host("server"), PORT)
        counters = world.edge.counters()
        assert (counters["opened"], counters["closed"], counters["refused"]) == (1, 1, 1)
        assert (counters["dropped_messages"], counters["held_messages"]) == (1, 0)
        world.network.heal()
        assert world.edge.toxics == []
        client, server = await world.connect()
        client.transport.write(b"again")
        await passes()
        assert server.data == b"again"

    world.run(main)


@pytest.mark.parametrize(
    ("toxic", "complaint"),
    [
        (("latencyy", "upstream", {"latency": 1}), "no toxic 'latencyy'"),
        (("latency", "up", {"latency": 1}), "no stream 'up'"),
        (("latency", "upstream", {"latencyy": 1}), "attributes latency"),
        (("latency", "upstream", {"latency": -1}), "natural numbers"),
        (("bandwidth", "upstream", {}), "attributes rate"),
    ],
)
def test_unknown_toxic_is_refused(toxic: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Toxic(*toxic)
