from __future__ import annotations

import asyncio
import contextvars
import select
import ssl
from collections.abc import Callable

import httpx
import pytest
from simulated_network import PORT, WIRE, Echo, Recorder, World, passes

from chaos.errors import EdgeRefused
from chaos.simulation.kernel.audit import NotSimulated
from chaos.simulation.network.network import Message
from chaos.simulation.network.transport import KERNEL_BYTES
from holdfast.runtime.health import create_health, start_server, stop_server
from holdfast.telemetry.metrics import Metrics


@pytest.fixture
def world() -> World:
    return World()


def test_streams_exchange_data(world: World) -> None:
    async def main() -> None:
        await world.serve(Echo)
        began = world.now
        reader, writer = await asyncio.open_connection(world.network.host("server"), PORT)
        assert 0.0001 < world.now - began < WIRE
        began = world.now
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert 0.0002 < world.now - began < 2 * WIRE
        assert writer.get_extra_info("peername") == (world.network.host("server"), PORT)
        sockname = writer.get_extra_info("sockname")
        assert writer.get_extra_info("socket").getsockname() == sockname
        assert world.accepted[0].transport.get_extra_info("peername") == sockname
        writer.close()
        await writer.wait_closed()
        await passes()
        assert world.accepted[0].what == ["made", "data", "eof", "lost"]

    world.run(main)


def test_health_server_answers_httpx_on_another_node(world: World) -> None:
    async def api() -> None:
        app = create_health(dict, Metrics("test"))
        server, serving = await start_server(app, "0.0.0.0", 8000)
        assert server.port == 8000
        await asyncio.sleep(5)
        await stop_server(server, serving)

    async def client() -> int:
        url = f"http://{world.network.host('api-1')}:8000"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False) as http:
            for _ in range(3):
                answer = await http.get("/healthz")
                assert answer.json() == {"status": "alive"}
                await asyncio.sleep(1)
            assert world.network.edge("client->api-1").opened == 1  # kept alive
            await asyncio.sleep(10)
            with pytest.raises(httpx.TransportError):
                await http.get("/healthz")  # the server has stopped
        return 7

    async def main() -> None:
        server = world.loop.start("api-1", api)
        await asyncio.sleep(1)
        caller = world.loop.start("client", client)
        assert await caller.wait() == 7, caller.output
        assert await server.wait() == 0, server.output
        assert world.now == pytest.approx(14, abs=0.5)

    world.run(main)


def test_callbacks_run_on_the_node_that_owns_the_end(world: World) -> None:
    async def main() -> None:
        await world.serve(Echo)
        client, server = await world.connect()
        client.transport.write(b"x")
        await passes()
        client.transport.close()
        await passes()
        assert client.what == ["made", "data", "lost"]
        assert client.nodes == {"harness"}
        assert server.nodes == {"server"}

    world.run(main)


def test_each_connection_has_its_own_context(world: World) -> None:
    seen: contextvars.ContextVar[int] = contextvars.ContextVar("seen", default=0)
    counts: list[int] = []

    class Counting(Recorder):
        def data_received(self, data: bytes) -> None:
            seen.set(seen.get() + 1)
            counts.append(seen.get())

    async def main() -> None:
        await world.serve(Counting)
        for _ in range(2):
            client, _ = await world.connect()
            for _ in range(2):
                client.transport.write(b"x")
                await passes()

    world.run(main)
    assert counts == [1, 2, 1, 2]


def test_writes_of_one_step_form_one_message(world: World) -> None:
    async def main() -> None:
        await world.serve()
        client, server = await world.connect()
        client.transport.write(b"a")
        client.transport.writelines([b"b", bytearray(b"c")])
        await asyncio.sleep(0)
        client.transport.write(b"d")
        await passes()
        assert [data for _, what, data in server.seen if what == "data"] == [b"abc", b"d"]

    world.run(main)


def test_order_within_a_direction_is_kept(world: World) -> None:
    async def main() -> None:
        await world.serve()
        client, server = await world.connect()
        for number in range(100):
            client.transport.write(bytes([number]))
            await asyncio.sleep(0)
        client.transport.close()
        await passes()
        assert server.data == bytes(range(100))
        assert server.what[-2:] == ["eof", "lost"]

    world.run(main)


def test_connection_can_be_half_closed(world: World) -> None:
    async def main() -> None:
        await world.serve(Echo, keep_open=True)
        client, server = await world.connect()
        client.transport.write(b"question")
        client.transport.write_eof()
        await passes()
        server.transport.write(b", answered")
        await passes()
        assert client.data == b"question, answered"
        with pytest.raises(RuntimeError, match="write_eof"):
            client.transport.write(b"more")

    world.run(main)


def test_socket_is_readable_after_eof(world: World) -> None:
    async def main() -> None:
        await world.serve()
        client, server = await world.connect()
        client.transport.pause_reading()  # as anyio does between two reads
        sock = client.transport.get_extra_info("socket")
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        assert poll.poll(0) == []
        server.transport.close()
        await passes()
        assert client.what == ["made"]
        assert sock.fileno() == -1

    world.run(main)


def test_connection_without_a_listener_is_refused(world: World) -> None:
    async def main() -> None:
        address = world.network.host("server")
        answers = set()
        for _ in range(20):
            try:
                reader, writer = await asyncio.open_connection(address, PORT)
            except ConnectionRefusedError:
                answers.add("refused")
            else:
                assert await reader.read() == b""
                answers.add("closed")
                writer.close()
        assert answers == {"refused", "closed"}
        assert world.edge.opened + world.edge.refused == 20

    world.run(main)


def test_unknown_host_is_not_simulated(world: World) -> None:
    async def main() -> None:
        with pytest.raises(NotSimulated, match=r"203\.0\.113\.7:80"):
            await asyncio.open_connection("203.0.113.7", 80)

    world.run(main)


def test_port_is_in_use_until_server_or_node_ends(world: World) -> None:
    async def main() -> None:
        node = await world.serve()
        first = await world.network.create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = first.sockets[0].getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            await world.loop.create_server(asyncio.Protocol, "127.0.0.1", port)
        first.close()
        await first.wait_closed()
        await world.loop.create_server(asyncio.Protocol, "127.0.0.1", port)
        world.loop.kill(node)
        await world.serve()
        await world.connect()

    world.run(main)


def test_closed_server_waits_for_its_connections(world: World) -> None:
    async def main() -> None:
        accepted: list[Recorder] = []

        def factory() -> Recorder:
            accepted.append(Recorder())
            return accepted[-1]

        server = await world.network.create_server(factory, "0.0.0.0", PORT)
        address = world.network.host("harness")
        _, writer = await asyncio.open_connection(address, PORT)
        await passes()
        server.close()
        waiting = asyncio.create_task(server.wait_closed())
        await passes(10)
        assert not waiting.done()
        writer.close()
        await asyncio.wait_for(waiting, 1)
        assert accepted[0].what == ["made", "eof", "lost"]

    world.run(main)


def test_writer_waits_for_a_slow_reader(world: World) -> None:
    async def main() -> None:
        await world.serve()
        client, server = await world.connect()
        server.transport.pause_reading()
        sent = 0
        while "pause" not in client.what:
            client.transport.write(bytes(1024))
            sent += 1024
            await asyncio.sleep(0)
        assert sent == 2 * KERNEL_BYTES + 1024  # the kernel's, then asyncio's own
        await passes(10)
        assert server.data == b""
        server.transport.resume_reading()
        await passes()
        assert len(server.data) == sent
        assert client.what == ["made", "pause", "resume"]
        assert client.transport.get_write_buffer_size() == 0

    world.run(main)


def test_tap_sees_every_message_in_order(world: World) -> None:
    seen: list[Message] = []

    def tap(message: Message) -> bool:
        seen.append(message)
        return True

    async def main() -> None:
        await world.serve(Echo)
        world.network.tap = tap
        for word in (b"a", b"b"):
            client, _ = await world.connect()
            client.transport.write(word)
            await passes()

    world.run(main)
    assert [(m.stream, m.number, m.data) for m in seen] == [
        ("upstream", 1, b"a"),
        ("downstream", 1, b"a"),
        ("upstream", 2, b"b"),
        ("downstream", 2, b"b"),
    ]
    assert {(m.edge, m.sender.name) for m in seen[::2]} == {("harness->server", "harness")}
    assert seen[0].receiver.name == "server"


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_lost_message_resets_both_ends(world: World, stream: str) -> None:
    async def main() -> None:
        await world.serve(Echo)
        client, server = await world.connect()
        world.network.tap = lambda m: (m.stream, m.number) != (stream, 1)
        client.transport.write(b"question")
        await asyncio.sleep(0)
        client.transport.write(b" and another")
        await passes()
        for each in (client, server):
            assert each.what[-1] == "lost"
            assert isinstance(each.error, ConnectionResetError)
        # Later messages do not arrive either.
        assert client.data == b""
        assert server.data.startswith(b"question") == (stream == "downstream")
        assert stream == "downstream" or server.data == b""

    world.run(main)


@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_tap_can_kill_nodes(world: World, victim: str) -> None:
    async def main() -> None:
        await world.serve(Echo)
        caller = Recorder()

        async def client() -> None:
            address = world.network.host("server")
            await world.loop.create_connection(lambda: caller, address, PORT)
            caller.transport.write(b"question")
            await asyncio.sleep(3600)

        def tap(message: Message) -> bool:
            world.loop.kill(getattr(message, victim))
            return True

        world.network.tap = tap
        world.loop.start("client", client)
        await passes()
        server = world.accepted[0]
        if victim == "sender":
            assert caller.what == ["made"]
            assert server.what[:2] == ["made", "data"]  # it was in flight
        else:
            assert server.what == ["made"]
            assert caller.what[-1] == "lost"

    world.run(main)


def story(seed: int) -> tuple[str, float]:
    world = World(seed)

    async def main() -> float:
        await world.serve(Echo)
        client, _ = await world.connect()
        client.transport.write(b"x")
        while "data" not in client.what:
            await passes(0.00001)
        return world.now

    ended = world.run(main)
    return world.loop.trace.digest, ended


def test_seed_determines_the_run() -> None:
    assert story(1) == story(1)
    assert len({ended for _, ended in map(story, range(5))}) == 5


def masked(text: bytes, mask: Callable[[bytes], bytes] | None) -> str:
    world = World()

    async def main() -> None:
        await world.serve(Echo)
        client, server = await world.connect()
        server.transport.mask = mask
        client.transport.write(text)
        await passes()
        assert client.data == text

    world.run(main)
    return world.loop.trace.digest


def test_digest_covers_bytes_except_masked_ones() -> None:
    assert masked(b"pid 1", None) != masked(b"pid 2", None)
    assert masked(b"pid 1", lambda data: data[:3]) == masked(b"pid 2", lambda data: data[:3])
    assert masked(b"pid 1", lambda data: data[:3]) != masked(b"pud 1", lambda data: data[:3])


def test_a_node_cannot_use_the_edge_of_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = world.network.edge("worker-1->server")
    monkeypatch.setattr(world.network, "edge", lambda _: foreign)

    async def main() -> None:
        await world.serve(Echo)
        with pytest.raises(EdgeRefused, match="over worker-1->server"):
            await asyncio.open_connection(world.network.host("server"), PORT)

    world.run(main)
