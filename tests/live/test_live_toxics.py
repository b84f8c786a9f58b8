"""Toxiproxy does what the arena believes it does: on the real server, with real sockets."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import requests
from waiting import until, wait_until

from chaos.live.edges import EdgeMeasurement, inject_edge_fault, was_observed
from chaos.live.socket_stats import ByteCounts, EdgeTraffic, LocalSocketStats, client_bytes
from chaos.live.toxics import Change, Proxies, ProxyToxic, Stream, ToxiproxyError
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
    """An edge to an echo server, and what is known of it."""

    def __init__(self, proxies: Proxies, port: int, journal: list[Change]) -> None:
        self.proxies = proxies
        self.port = port
        self.journal = journal
        self.heard: list[bytes] = []

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
                line.heard.append(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    line.port = await proxies.create(EDGE, server.sockets[0].getsockname()[1])
    yield line
    for edge in proxies.edges:
        await asyncio.to_thread(requests.delete, f"http://127.0.0.1:{toxiproxy}/proxies/{edge}")
    server.close()
    await server.wait_closed()


def latency(milliseconds: int, *streams: Any) -> list[ProxyToxic]:
    return [
        ProxyToxic(EDGE, "latency", each, (("latency", milliseconds),)) for each in streams or BOTH
    ]


async def standing(line: Line) -> set[str]:
    found = await asyncio.to_thread(line.proxies._proxy(EDGE).toxics)
    return set(found)


async def test_latency_is_what_was_asked_for_and_gone_afterwards(line: Line) -> None:
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
    assert await standing(line) == set()
    assert [change.action for change in line.journal] == ["add", "remove"]


async def test_a_stall_loses_nothing_and_delivers_when_it_is_lifted(line: Line) -> None:
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
            assert line.heard == []
        assert await asyncio.wait_for(reader.readexactly(3), 2) == b"123"


async def test_what_was_sent_arrives_even_if_its_sender_is_gone(line: Line) -> None:
    """The zombie that really writes: its connection closes, its statement executes later."""
    async with line.proxies.toxic(*latency(600_000, "upstream")):
        async with line.connected() as (_, writer):
            writer.write(b"finish")
            await writer.drain()
        await asyncio.sleep(0.1)
        assert line.heard == []
    await until(lambda: line.heard == [b"finish"])


async def test_a_misspelt_attribute_is_refused_though_toxiproxy_would_take_it(line: Line) -> None:
    with pytest.raises(ToxiproxyError, match="latencyy"):
        await line.proxies.add(ProxyToxic(EDGE, "latency", "upstream", (("latencyy", 5),)))
    with pytest.raises(ToxiproxyError, match="jitter"):
        await line.proxies.add(
            ProxyToxic(EDGE, "latency", "upstream", (("jitter", 5), ("latency", 5)))
        )
    assert await standing(line) == set()
    assert line.journal == []


async def test_a_toxic_that_does_not_stand_as_asked_is_noticed(
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
    assert await standing(line) == set()


async def test_toxics_go_when_the_block_fails_or_is_cancelled(line: Line) -> None:
    with pytest.raises(RuntimeError, match="inside"):
        async with line.proxies.toxic(*latency(10)):
            raise RuntimeError("inside")
    assert await standing(line) == set()

    entered = asyncio.Event()

    async def hold() -> None:
        async with line.proxies.toxic(*latency(10)):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await entered.wait()
    assert len(await standing(line)) == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await standing(line) == set()


async def test_overlapping_faults_of_one_kind_do_not_take_each_other_away(line: Line) -> None:
    slow = ProxyToxic(EDGE, "latency", "upstream", (("latency", 20),), tag="slow#1")
    spike = ProxyToxic(EDGE, "latency", "upstream", (("latency", 90),), tag="spike#2")
    async with line.proxies.toxic(slow):
        async with line.proxies.toxic(spike):
            assert await standing(line) == {slow.name, spike.name}
        assert await standing(line) == {slow.name}


async def test_down_refuses_and_closes_and_comes_back(line: Line) -> None:
    async with line.connected() as (reader, _), line.proxies.down(EDGE):
        assert await asyncio.wait_for(reader.read(1), 2) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", line.port)
    async with line.connected() as (reader, writer):
        writer.write(b"x")
        assert await asyncio.wait_for(reader.read(1), 2) == b"x"


async def test_heal_lifts_whatever_stands(line: Line) -> None:
    for toxic in latency(10):
        await line.proxies.add(toxic)
    await line.proxies.set_enabled(EDGE, enabled=False)
    await line.proxies.heal(["worker-1"])
    assert await standing(line) == set()
    async with line.connected() as (reader, writer):
        writer.write(b"x")
        assert await asyncio.wait_for(reader.read(1), 2) == b"x"


async def test_heal_leaves_the_edges_of_those_who_stay_dead(line: Line) -> None:
    """At the end of a storm only a core is healed: by either end of an edge."""
    client = "client->api-1"
    await line.proxies.create(client, free_port())
    for edge in (EDGE, client):
        await line.proxies.add(ProxyToxic(edge, "latency", "upstream", (("latency", 10),)))
        await line.proxies.set_enabled(edge, enabled=False)
    await line.proxies.heal(["worker-2", "worker-11", "scheduler-1", "redis-2"])
    assert await enabled(line) == {EDGE: False, client: False}
    assert await standing(line) == {"latency_upstream"}
    await line.proxies.heal(["api-1", "worker-2"])
    assert await enabled(line) == {EDGE: False, client: True}
    assert await standing(line) == {"latency_upstream"}
    await line.proxies.heal(["worker-1"])
    assert await enabled(line) == {EDGE: True, client: True}
    assert await standing(line) == set()


async def enabled(line: Line) -> dict[str, bool]:
    """Which edges Toxiproxy itself says are open."""
    proxies = await asyncio.to_thread(line.proxies._server.proxies)
    return {name: bool(proxy.enabled) for name, proxy in proxies.items()}


async def test_an_unknown_edge_is_named_with_those_there_are(line: Line) -> None:
    with pytest.raises(ToxiproxyError, match=r"worker-9->redis.*worker-1->redis"):
        await line.proxies.remove(ProxyToxic("worker-9->redis", "latency", "upstream", ()))


async def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client gives up
        writer.close()

    silent = await asyncio.start_server(listen, "127.0.0.1", 0)
    proxies = Proxies(silent.sockets[0].getsockname()[1], lambda _: None)
    monkeypatch.setattr("chaos.live.toxics._Requests.timeout_seconds", 0.2)
    started = time.monotonic()
    with pytest.raises(requests.Timeout):
        await proxies.create(EDGE, 1)
    assert time.monotonic() - started < 2
    silent.close()
    await silent.wait_closed()


def test_bytes_of_a_port_are_those_of_its_clients_only() -> None:
    assert client_bytes(free_port()) == {}


def plan(**more: Any) -> FaultSpec:
    values: dict[str, Any] = {"name": "f", "fault": "latency", "target": EDGE, "at": 0}
    return FaultSpec.model_validate(values | {"attributes": {"latency": 600_000}} | more)


async def felt_by(line: Line, fault: FaultSpec, *, speaking: bool) -> bool:
    """Strike the edge for 0.4 s while a client talks over it, or is silent."""
    async with line.connected() as (reader, writer):
        writer.write(b"before")
        await reader.readexactly(6)

        async def talk() -> None:
            while True:
                writer.write(b".")
                await asyncio.sleep(0.02)

        talking = asyncio.create_task(talk() if speaking else asyncio.sleep(60))
        try:
            felt, evidence = await inject_edge_fault(
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
        return felt


@pytest.mark.parametrize("stream", ["up", "down", "both"])
async def test_a_stall_is_felt_by_a_client_that_speaks(line: Line, stream: str) -> None:
    assert await felt_by(line, plan(stream=stream), speaking=True)


async def test_a_stall_that_nobody_ran_into_is_not_felt(line: Line) -> None:
    assert not await felt_by(line, plan(), speaking=False)


async def test_latency_is_felt_by_measurement(line: Line) -> None:
    slow = plan(attributes={"latency": 60}, stream="up")
    assert await felt_by(line, slow, speaking=True)


async def test_a_closed_edge_is_felt(line: Line) -> None:
    assert await felt_by(line, plan(fault="down", attributes={}), speaking=False)


async def test_a_limit_inside_the_traffic_is_felt(line: Line) -> None:
    limit = plan(fault="limit_data", attributes={"bytes": 5}, stream="down")
    assert await felt_by(line, limit, speaking=True)


def seen(**more: Any) -> EdgeMeasurement:
    values: dict[str, Any] = {
        "baseline_seconds": None,
        "probe_seconds": 2.0,
        "answered": False,
        "traffic": ByteCounts(sent=100, received=0, connections=1, closed=0),
        "open_before": 1,
        "closed": 0,
        "released": 0,
        "held_seconds": 2.0,
    }
    return EdgeMeasurement(**(values | more))


IDLE = ByteCounts(sent=0, received=0, connections=1, closed=0)
THROUGH = ByteCounts(sent=100, received=50, connections=1, closed=0)


@pytest.mark.parametrize(
    ("fault", "measured", "felt"),
    [
        pytest.param(plan(), seen(), True, id="sent, nothing back"),
        pytest.param(plan(), seen(traffic=THROUGH), False, id="answers came through"),
        pytest.param(plan(), seen(answered=True), False, id="our own request was answered"),
        pytest.param(plan(), seen(traffic=IDLE), False, id="nobody used it"),
        pytest.param(plan(), seen(traffic=IDLE, released=9), True, id="a reply was held"),
        pytest.param(plan(stream="up"), seen(traffic=THROUGH), True, id="up: pushes still come"),
        pytest.param(
            plan(attributes={"latency": 500}, stream="up"),
            seen(probe_seconds=0.51, answered=True),
            True,
            id="as slow as asked",
        ),
        pytest.param(
            plan(attributes={"latency": 500}, stream="up"),
            seen(probe_seconds=0.01, answered=True),
            False,
            id="not slow at all",
        ),
        pytest.param(
            plan(fault="reset_peer", attributes={"timeout": 0}),
            seen(answered=True),
            False,
            id="nothing was closed",
        ),
        pytest.param(
            plan(fault="bandwidth", attributes={"rate": 1}),
            seen(baseline_seconds=0.01, probe_seconds=0.5, answered=True),
            True,
            id="slower than it was",
        ),
        pytest.param(
            plan(fault="bandwidth", attributes={"rate": 1}),
            seen(baseline_seconds=0.01, probe_seconds=0.011, answered=True),
            False,
            id="as fast as before",
        ),
    ],
)
def test_felt_is_judged_from_the_measurement(
    fault: FaultSpec, measured: EdgeMeasurement, *, felt: bool
) -> None:
    assert was_observed(fault, measured) is felt
