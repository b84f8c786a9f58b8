from __future__ import annotations

import asyncio

import pytest
from simulated_network import PORT, Recorder, World, passes

from chaos.simulation.network.network import Server


@pytest.fixture
def world() -> World:
    return World()


def test_peer_of_a_killed_process_sees_eof(world: World) -> None:
    async def main() -> None:
        node = await world.serve()
        client, server = await world.connect()
        server.transport.write(b"last words")
        world.loop.kill(node)
        await passes()
        assert client.what == ["made", "data", "eof", "lost"]
        assert client.error is None
        assert server.what == ["made"]

    world.run(main)


def test_peer_of_a_process_killed_with_unread_bytes_sees_reset(world: World) -> None:
    async def main() -> None:
        node = await world.serve()
        client, _ = await world.connect()
        world.loop.pause(node)
        client.transport.write(b"unread")
        await passes()
        world.loop.kill(node)
        await passes()
        assert client.what == ["made", "lost"]
        assert isinstance(client.error, ConnectionResetError)

    world.run(main)


def test_write_to_a_closed_socket_is_reset(world: World) -> None:
    async def main() -> None:
        node = await world.serve()
        for close in (lambda end: end.abort(), lambda _: world.loop.kill(node)):
            client, server = await world.connect(keep_open=True)
            close(server.transport)
            await passes()
            assert client.what == ["made", "eof"]
            client.transport.write(b"too late")
            await passes()
            assert client.what == ["made", "eof", "lost"]
            assert isinstance(client.error, ConnectionResetError)

    world.run(main)


def test_kernel_of_a_paused_process_resets_data_for_a_closed_socket(
    world: World,
) -> None:
    async def main() -> None:
        node = await world.serve()
        client, server = await world.connect(keep_open=True)
        server.transport.close()
        world.loop.pause(node)
        await passes()
        client.transport.write(b"too late")
        await passes()
        assert isinstance(client.error, ConnectionResetError)

    world.run(main)


def test_closing_server_resets_unaccepted_connections(world: World) -> None:
    async def main() -> None:
        listening: asyncio.Future[Server] = asyncio.get_running_loop().create_future()

        async def serve() -> None:
            listening.set_result(await world.network.create_server(Recorder, "0.0.0.0", PORT))
            await asyncio.sleep(3600)

        node = world.loop.start("server", serve)
        server = await listening
        world.loop.pause(node)
        client = Recorder()
        address = world.network.host("server")
        await world.loop.create_connection(lambda: client, address, PORT)
        server.close()
        world.loop.resume(node)
        await passes()
        assert isinstance(client.error, ConnectionResetError)

    world.run(main)


def test_close_with_unread_bytes_is_a_reset(world: World) -> None:
    async def main() -> None:
        await world.serve()
        client, server = await world.connect()
        server.transport.pause_reading()
        client.transport.write(b"unread")
        await passes()
        server.transport.close()
        await passes()
        assert client.what == ["made", "lost"]
        assert isinstance(client.error, ConnectionResetError)

    world.run(main)


def test_writer_that_does_not_read_detects_reset(world: World) -> None:
    async def main() -> None:
        await world.serve()
        client, server = await world.connect()
        client.transport.pause_reading()
        server.transport.pause_reading()
        client.transport.write(b"unread")
        await passes()
        server.transport.close()
        await passes()
        assert client.what == ["made"]
        client.transport.write(b"more")
        await passes()
        assert client.what == ["made", "lost"]
        assert isinstance(client.error, ConnectionResetError)

    world.run(main)


def test_paused_process_receives_connections_and_bytes_later(world: World) -> None:
    async def main() -> None:
        node = await world.serve()
        world.loop.pause(node)
        reader, writer = await asyncio.open_connection(world.network.host("server"), PORT)
        for word in (b"one ", b"two ", b"three"):
            writer.write(word)
            await passes(10)
        assert world.accepted == []
        world.loop.resume(node)
        await passes()
        assert world.accepted[0].data == b"one two three"
        assert world.accepted[0].at("made") > 30
        world.accepted[0].transport.close()
        assert await reader.read() == b""
        writer.close()

    world.run(main)
