"""Toxiproxy behaves as the arena assumes: a real server and real sockets."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import requests
from tcp_server import accepting
from waiting import until, wait_until

from chaos.live.edges import inject_edge_fault
from chaos.live.socket_stats import ByteCounts, EdgeTraffic, LocalSocketStats, client_bytes
from chaos.live.toxics import Change, Proxies, ProxyToxic, Stream, ToxiproxyError, _Requests
from chaos.live.toxiproxy_binary import toxiproxy_binary
from chaos.scenario.faults import FaultSpec
from holdfast.devstack.host import free_port
from holdfast.devstack.reaper import Reaper

EDGE = "worker-1->redis"
BOTH: tuple[Stream, ...] = ("upstream", "downstream")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
def toxiproxy(reaper: Reaper) -> Iterator[int]:
    port = free_port()
    argv = [str(toxiproxy_binary()), "-host", "127.0.0.1", "-port", str(port)]
    process = reaper.spawn(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with suppress(requests.ConnectionError):
            return requests.get(f"http://127.0.0.1:{port}/version", timeout=1).ok
        return False

    wait_until(answers)
    yield port
    process.terminate()
    process.wait()
    reaper.forget(process)


class Line:
    """An edge to an echo server, which records what it received."""

    def __init__(self, proxies: Proxies, port: int, journal: list[Change]) -> None:
        self.proxies = proxies
        self.port = port
        self.journal = journal
        self.received: list[bytes] = []

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Streams]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@pytest.fixture
async def line(toxiproxy: int) -> AsyncIterator[Line]:
    journal: list[Change] = []
    proxies = Proxies(toxiproxy, journal.append)
    line = Line(proxies, 0, journal)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                line.received.append(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    async with accepting(echo) as port:
        line.port = await proxies.create(EDGE, port)
        yield line
        for edge in proxies.edges:
            await asyncio.to_thread(requests.delete, f"http://127.0.0.1:{toxiproxy}/proxies/{edge}")


def latency(milliseconds: int, *streams: Any) -> list[ProxyToxic]:
    return [
        ProxyToxic(EDGE, "latency", each, (("latency", milliseconds),)) for each in streams or BOTH
    ]


async def active_toxics(line: Line) -> set[str]:
    found = await asyncio.to_thread(line.proxies._proxy(EDGE).toxics)
    return set(found)


async def test_latency_matches_the_request_and_ends_with_the_block(line: Line) -> None:
    async with line.connected() as (reader, writer):
        async with line.proxies.toxic(*latency(150, "upstream")):
            started = time.monotonic()
            writer.write(b"a")
            await reader.readexactly(1)
            assert time.monotonic() - started >= 0.15
        started = time.monotonic()
        writer.write(b"b")
        await reader.readexactly(1)
        assert time.monotonic() - started < 0.1
    assert await active_toxics(line) == set()
    assert [change.action for change in line.journal] == ["add", "remove"]


async def test_stall_loses_nothing_and_delivers_on_removal(line: Line) -> None:
    async with line.connected() as (reader, writer):
        meters = EdgeTraffic(LocalSocketStats(), {EDGE: line.port})
        await meters.count()
        async with line.proxies.toxic(*latency(600_000)):
            for byte in (b"1", b"2", b"3"):
                writer.write(byte)
                await writer.drain()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.3)
            counted = await meters.count()
            assert counted[EDGE] == ByteCounts(sent=3, received=0, connections=1, closed=0)
            assert line.received == []
        assert await asyncio.wait_for(reader.readexactly(3), 2) == b"123"


async def test_held_data_is_delivered_after_its_sender_disconnects(line: Line) -> None:
    """A zombie's statement executes after its connection has closed."""
    async with line.proxies.toxic(*latency(600_000, "upstream")):
        async with line.connected() as (_, writer):
            writer.write(b"finish")
            await writer.drain()
        await asyncio.sleep(0.1)
        assert line.received == []
    await until(lambda: line.received == [b"finish"])


async def test_misspelt_attribute_is_refused_although_toxiproxy_accepts_it(line: Line) -> None:
    with pytest.raises(ToxiproxyError, match="latencyy"):
        await line.proxies.add(ProxyToxic(EDGE, "latency", "upstream", (("latencyy", 5),)))
    with pytest.raises(ToxiproxyError, match="jitter"):
        await line.proxies.add(
            ProxyToxic(EDGE, "latency", "upstream", (("jitter", 5), ("latency", 5)))
        )
    assert await active_toxics(line) == set()
    assert line.journal == []


async def test_toxic_that_differs_from_the_request_is_an_error(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = line.proxies._proxy(EDGE)
    original = proxy.add_toxic

    def other(**toxic: Any) -> None:
        original(**(toxic | {"attributes": {"latency": 1}}))

    monkeypatch.setattr(proxy, "add_toxic", other)
    with pytest.raises(ToxiproxyError, match="asked for latency_upstream"):
        async with line.proxies.toxic(*latency(50, "upstream")):
            pytest.fail("the block must not be entered")
    assert await active_toxics(line) == set()


async def test_toxics_are_removed_when_the_block_fails_or_is_cancelled(line: Line) -> None:
    with pytest.raises(RuntimeError, match="inside"):
        async with line.proxies.toxic(*latency(10)):
            raise RuntimeError("inside")
    assert await active_toxics(line) == set()

    entered = asyncio.Event()

    async def hold() -> None:
        async with line.proxies.toxic(*latency(10)):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await entered.wait()
    assert len(await active_toxics(line)) == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await active_toxics(line) == set()


async def test_overlapping_toxics_of_one_type_are_removed_separately(line: Line) -> None:
    slow = ProxyToxic(EDGE, "latency", "upstream", (("latency", 20),), tag="slow#1")
    spike = ProxyToxic(EDGE, "latency", "upstream", (("latency", 90),), tag="spike#2")
    async with line.proxies.toxic(slow):
        async with line.proxies.toxic(spike):
            assert await active_toxics(line) == {slow.name, spike.name}
        assert await active_toxics(line) == {slow.name}


async def test_down_closes_and_refuses_connections_until_it_ends(line: Line) -> None:
    async with line.connected() as (reader, _), line.proxies.down(EDGE):
        assert await asyncio.wait_for(reader.read(1), 2) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", line.port)
    async with line.connected() as (reader, writer):
        writer.write(b"x")
        assert await asyncio.wait_for(reader.read(1), 2) == b"x"


async def test_heal_removes_all_toxics_and_enables_the_edge(line: Line) -> None:
    for toxic in latency(10):
        await line.proxies.add(toxic)
    await line.proxies.set_enabled(EDGE, enabled=False)
    await line.proxies.heal(["worker-1"])
    assert await active_toxics(line) == set()
    async with line.connected() as (reader, writer):
        writer.write(b"x")
        assert await asyncio.wait_for(reader.read(1), 2) == b"x"


async def test_heal_skips_edges_of_actors_outside_the_core(line: Line) -> None:
    """A storm heals only its core; an edge is matched by either end."""
    client = "client->api-1"
    await line.proxies.create(client, free_port())
    for edge in (EDGE, client):
        await line.proxies.add(ProxyToxic(edge, "latency", "upstream", (("latency", 10),)))
        await line.proxies.set_enabled(edge, enabled=False)
    await line.proxies.heal(["worker-2", "worker-11", "scheduler-1", "redis-2"])
    assert await enabled(line) == {EDGE: False, client: False}
    assert await active_toxics(line) == {"latency_upstream"}
    await line.proxies.heal(["api-1", "worker-2"])
    assert await enabled(line) == {EDGE: False, client: True}
    assert await active_toxics(line) == {"latency_upstream"}
    await line.proxies.heal(["worker-1"])
    assert await enabled(line) == {EDGE: True, client: True}
    assert await active_toxics(line) == set()


async def enabled(line: Line) -> dict[str, bool]:
    """Return which edges are enabled according to Toxiproxy."""
    proxies = await asyncio.to_thread(line.proxies._server.proxies)
    return {name: bool(proxy.enabled) for name, proxy in proxies.items()}


async def test_unknown_edge_is_reported_with_the_known_ones(line: Line) -> None:
    with pytest.raises(ToxiproxyError, match=r"worker-9->redis.*worker-1->redis"):
        await line.proxies.remove(ProxyToxic("worker-9->redis", "latency", "upstream", ()))


async def test_request_to_a_silent_toxiproxy_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client gives up
        writer.close()

    monkeypatch.setattr("chaos.live.toxics._Requests.timeout_seconds", 0.2)
    async with accepting(listen) as port:
        proxies = Proxies(port, lambda _: None)
        started = time.monotonic()
        with pytest.raises(requests.Timeout):
            await proxies.create(EDGE, 1)
        assert time.monotonic() - started < 2


def test_client_bytes_of_an_unused_port_are_empty() -> None:
    port = free_port()
    assert client_bytes({port}) == {port: {}}


async def test_all_edges_are_measured_by_one_look_at_the_sockets(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a loaded machine a look takes milliseconds, every 50 of which there is one."""
    other = await line.proxies.create("worker-2->redis", free_port())
    looks: list[int] = []
    netlink = socket.socket.send

    def send(self: socket.socket, *given: Any) -> int:
        looks.append(self.family)
        return netlink(self, *given)

    async with line.connected() as (reader, writer):
        writer.write(b"four")
        await reader.readexactly(4)
        monkeypatch.setattr(socket.socket, "send", send)
        counted = await LocalSocketStats().sockets({line.port, other})
        monkeypatch.undo()
    assert [list(clients.values()) for clients in counted.values()].count([]) == 1
    assert list(counted[line.port].values()) == [(4, 4)]
    assert looks.count(socket.AF_NETLINK) == 1


def plan(**more: Any) -> FaultSpec:
    values: dict[str, Any] = {"name": "f", "fault": "latency", "target": EDGE, "at": 0}
    return FaultSpec.model_validate(values | {"attributes": {"latency": 600_000}} | more)


async def inject(line: Line, fault: FaultSpec, *, active: bool) -> bool:
    """Inject the fault for 0.4 s while a client is active or idle; return if it was observed."""
    async with line.connected() as (reader, writer):
        writer.write(b"before")
        await reader.readexactly(6)

        async def talk() -> None:
            while True:
                writer.write(b".")
                await asyncio.sleep(0.02)

        talking = asyncio.create_task(talk() if active else asyncio.sleep(60))
        try:
            observed, evidence = await inject_edge_fault(
                fault,
                "f#1",
                {EDGE: line.port},
                line.proxies,
                LocalSocketStats(),
                lambda: asyncio.sleep(0.4),
            )
        finally:
            talking.cancel()
        assert set(evidence) == {EDGE}
        return observed


@pytest.mark.parametrize("stream", ["up", "down", "both"])
async def test_stall_is_observed_through_an_active_client(line: Line, stream: str) -> None:
    assert await inject(line, plan(stream=stream), active=True)


async def test_stall_on_an_idle_edge_is_not_observed(line: Line) -> None:
    assert not await inject(line, plan(), active=False)


async def test_latency_is_observed_by_measurement(line: Line) -> None:
    slow = plan(attributes={"latency": 60}, stream="up")
    assert await inject(line, slow, active=True)


async def test_closed_edge_is_observed(line: Line) -> None:
    assert await inject(line, plan(fault="down", attributes={}), active=False)


async def test_end_of_a_closing_fault_waits_for_no_client(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it held is lost. A fault that flaps would begin later and later."""
    monkeypatch.setattr("chaos.live.edges._RELEASE_SECONDS", 3600)
    closed = plan(fault="down", attributes={})
    assert await asyncio.wait_for(inject(line, closed, active=False), 30)


async def test_edges_are_changed_at_the_same_time(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requests of one edge do not wait for those of another."""
    edges = [EDGE, "worker-2->redis", "worker-3->redis"]
    for edge in edges[1:]:
        await line.proxies.create(edge, free_port())
    all_asked = threading.Barrier(len(edges))
    request = _Requests._call

    def together(method: str, url: str, **more: Any) -> requests.Response:
        if method == "POST":
            all_asked.wait(timeout=30)
        return request(method, url, **more)

    monkeypatch.setattr(_Requests, "_call", together)
    async with line.proxies.down(*edges):
        assert await line.proxies.faults(edges) == {edge: ["down"] for edge in edges}
    toxics = [ProxyToxic(edge, "latency", "upstream", (("latency", 10),)) for edge in edges]
    async with line.proxies.toxic(*toxics):
        assert await line.proxies.faults(edges) == {edge: ["latency upstream"] for edge in edges}
    assert await line.proxies.faults(edges) == {edge: [] for edge in edges}


async def test_other_edges_are_repaired_although_one_repair_fails(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "worker-2->redis"
    await line.proxies.create(other, free_port())
    monkeypatch.setattr(line.proxies._proxy(EDGE), "enable", lambda: None)
    with pytest.raises(ToxiproxyError, match="enabled should be True"):
        async with line.proxies.down(EDGE, other):
            pass
    assert await enabled(line) == {EDGE: False, other: True}


async def test_limit_data_within_the_traffic_is_observed(line: Line) -> None:
    limit = plan(fault="limit_data", attributes={"bytes": 5}, stream="down")
    assert await inject(line, limit, active=True)
