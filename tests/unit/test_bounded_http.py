"""The bounds of every HTTP server, by the bytes on the wire."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from io import StringIO
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import until

from holdfast.errors import Misconfigured
from holdfast.runtime import bounded_http
from holdfast.runtime.bounded_http import HEAD_BYTES_MAX
from holdfast.runtime.health import (
    UvicornServer,
    require_safe_health,
    start_health,
    start_server,
    stop_server,
)
from holdfast.settings import Settings
from holdfast.telemetry.logs import create_logger
from holdfast.telemetry.metrics import Metrics

MIB = 1 << 20


async def _echo(request: Request) -> Response:
    return Response(await request.body())


async def _late(request: Request) -> Response:
    await asyncio.sleep(1.2 * bounded_http.BODY_SECONDS)
    return Response(await request.body())


async def _large(_: Request) -> Response:
    return Response(b"x" * (32 * MIB))


@asynccontextmanager
async def serving(log: StringIO | None = None, **options: Any) -> AsyncIterator[UvicornServer]:
    both = ["GET", "POST"]
    routes = [Route("/", _echo, methods=both), Route("/late", _late, methods=both)]
    routes.append(Route("/large", _large))
    logger = create_logger(style="json", stream=log or StringIO())
    server, task = await start_server(
        Starlette(routes=routes), "127.0.0.1", 0, log=logger, **options
    )
    try:
        yield server
    finally:
        await stop_server(server, task)


async def exchange(server: UvicornServer, *parts: bytes) -> bytes:
    """Send the parts on one connection; return all that was answered before it was closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await reader.read()
    finally:
        writer.transport.abort()


def answers(received: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Split what was received into answers: status, headers, body."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        headers = dict(field.lower().split(": ", 1) for field in fields)
        size = int(headers["content-length"])
        found.append((int(status.split()[1]), headers, rest[:size]))
        received = rest[size:]
    return found


def refusal(received: bytes) -> dict[str, Any]:
    """Return the problem of the one answer received."""
    [(status, headers, body)] = answers(received)
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    problem: dict[str, Any] = json.loads(body)
    assert problem["status"] == status
    return problem


def refused(log: StringIO) -> list[dict[str, Any]]:
    """Return the lines about refused requests."""
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in lines if line["event_name"] == "request_refused"]


FILLER = b"y" * HEAD_BYTES_MAX
CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE_HEADS = {
    "one header": b"GET / HTTP/1.1\r\nX-A: " + FILLER,
    "a header name": b"GET / HTTP/1.1\r\n" + FILLER,
    "many headers": b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(9000)),
    "the url": b"GET /?a=" + FILLER,
    "the method": b"\r\n" * HEAD_BYTES_MAX,
    "a trailer": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A: "
    + FILLER,
    "many trailers": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    + b"".join(b"X-%d: y\r\n" % n for n in range(9000)),
}


@pytest.mark.parametrize("head", LARGE_HEADS.values(), ids=LARGE_HEADS)
@pytest.mark.parametrize("complete", [True, False], ids=["complete", "endless"])
async def test_large_head_is_answered_431(head: bytes, complete: bool) -> None:
    async with serving() as server:
        more = [b"y" * MIB] if not complete else [b": z\r\n\r\n"]
        assert refusal(await exchange(server, head, *more))["status"] == 431


async def test_endless_head_costs_no_more_than_its_bound() -> None:
    """Far more is sent than read: the server discards for a while and closes the connection."""
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        answer = asyncio.create_task(reader.read())

        async def send() -> None:
            writer.write(b"GET / HTTP/1.1\r\nX-A: ")
            for _ in range(1 << 20):
                writer.write(b"y" * 65536)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await send()
        writer.transport.abort()
        await asyncio.gather(answer, return_exceptions=True)
        assert answers(await exchange(server, b"GET / HTTP/1.0\r\n\r\n"))[0][0] == 200


async def test_head_of_the_bound_is_served_and_large_bodies_are_not_heads() -> None:
    async with serving() as server:
        size = HEAD_BYTES_MAX - len("/") - len("X-A") - 4 - len("Connectionclose") - 4
        head = b"GET / HTTP/1.1\r\nConnection: close\r\nX-A: " + b"y" * size
        [(status, _, _)] = answers(await exchange(server, head, b"\r\n\r\n"))
        assert status == 200
        assert refusal(await exchange(server, head, b"y\r\n\r\n"))["status"] == 431
        body = b"z" * MIB
        post = b"POST / HTTP/1.1\r\nConnection: close\r\n"
        [(status, _, echoed)] = answers(
            await exchange(server, post + b"Content-Length: %d\r\n\r\n" % MIB + body)
        )
        assert (status, echoed) == (200, body)
        chunks = b"".join(b"1;x=%d\r\nz\r\n" % n for n in range(50_000))
        chunked = post + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        [(status, _, echoed)] = answers(await exchange(server, chunked))
        assert (status, echoed) == (200, b"z" * 50_000)


@pytest.mark.parametrize(
    "garbage",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
async def test_malformed_request_is_a_problem(garbage: bytes) -> None:
    log = StringIO()
    async with serving(log) as server:
        problem = refusal(await exchange(server, garbage))
    assert problem["type"] == "urn:holdfast:problem:malformed-request"
    [line] = refused(log)
    assert (line["status"], line["level"], line["client"]) == (400, "warning", "127.0.0.1")


async def test_refusal_is_never_the_answer_to_an_earlier_request() -> None:
    """Garbage after a request in progress closes the connection without an answer."""
    async with serving() as server:
        unfinished = b"GET / HTTP/1.1\r\n\r\n"
        assert await exchange(server, unfinished + b"nonsense\r\n\r\n") == b""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(unfinished)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"nonsense\r\n\r\n")
        assert refusal(await reader.read())["status"] == 400
        writer.transport.abort()


LIMITS = ("HEAD_SECONDS", "BODY_SECONDS", "STALL_SECONDS")


async def test_waiting_requests_of_a_connection_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each costs far more memory than its 18 bytes: a client that sends more is disconnected."""
    monkeypatch.setattr(bounded_http, "BODY_SECONDS", 1.0)
    log = StringIO()
    slow = b"GET /late HTTP/1.1\r\n\r\n"
    async with serving(log) as server:
        quick = b"GET / HTTP/1.1\r\n\r\n"
        waiting = quick * (bounded_http.WAITING_MAX - 1)
        last = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
        served = answers(await exchange(server, slow, waiting, last))
        assert [status for status, _, _ in served] == [200] * (bounded_http.WAITING_MAX + 1)
        assert refused(log) == []
        assert await exchange(server, slow, waiting + quick * 2) == b""
    [line] = refused(log)
    assert "wait for an earlier one" in line["detail"]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LIMITS:
        monkeypatch.setattr(bounded_http, name, 0.2)


@pytest.fixture
def in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a client on a busy machine keeps."""
    for name in LIMITS:
        monkeypatch.setattr(bounded_http, name, 2.0)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    "partial",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\nX-A: ",
        b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n{",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\nab",
    ],
)
async def test_unfinished_request_is_answered_408(partial: bytes) -> None:
    async with serving() as server:
        assert refusal(await exchange(server, partial))["status"] == 408
        # The time of a request is its own, however often something arrives.
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        answer = asyncio.create_task(reader.read())
        writer.write(partial)
        while not answer.done():
            writer.write(b"E")
            await asyncio.sleep(0.01)
        assert refusal(answer.result())["status"] == 408
        writer.transport.abort()


@pytest.mark.usefixtures("hurried")
async def test_idle_connection_is_closed_without_an_answer() -> None:
    async with serving() as server:
        assert await exchange(server, b"") == b""
        assert await exchange(server, b"\r\n") == b""
        # After an answer, bytes that begin no request do not keep the connection open.
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\r\n")
        assert await reader.read() == b""
        writer.transport.abort()


@pytest.mark.usefixtures("in_time")
async def test_time_of_the_application_is_not_that_of_the_client() -> None:
    """Bytes after a request in progress, or a paused body, do not end it."""
    async with serving() as server:
        request = b"GET /late HTTP/1.1\r\nConnection: close\r\n\r\n"
        [(status, _, _)] = answers(await exchange(server, request, b"\r\n"))
        assert status == 200
        post = b"POST /late HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % MIB
        [(status, _, body)] = answers(await exchange(server, post + b"z" * MIB))
        assert (status, len(body)) == (200, MIB)


@pytest.mark.usefixtures("hurried")
async def test_client_that_does_not_read_is_disconnected() -> None:
    async with serving() as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
        writer.write(b"GET /large HTTP/1.1\r\n\r\n")
        state = server.server_state
        await until(lambda: bool(state.connections))
        await until(lambda: not state.connections)
        writer.transport.abort()
        [(status, _, body)] = answers(
            await exchange(server, b"GET /large HTTP/1.1\r\nConnection: close\r\n\r\n")
        )
        assert (status, len(body)) == (200, 32 * MIB)


async def test_connections_beyond_the_limit_are_answered_503_and_logged_once() -> None:
    log = StringIO()
    async with serving(log, connections_max=20) as server:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(20)]
        await until(lambda: len(server.server_state.connections) == 20)
        for _ in range(5):
            problem = refusal(await exchange(server))
            assert problem["type"] == "urn:holdfast:problem:too-many-connections"
        assert [line["problem"] for line in refused(log)] == ["too-many-connections"]
        for _, writer in idle:
            writer.transport.abort()
        await until(lambda: not server.server_state.connections)
        [(status, _, _)] = answers(await exchange(server, b"GET / HTTP/1.0\r\n\r\n"))
        assert status == 200


async def test_every_answer_forbids_caches_and_guesses() -> None:
    async with serving() as server:
        for request in (b"GET / HTTP/1.0\r\n\r\n", b"GET /none HTTP/1.0\r\n\r\n", b"nonsense\r\n"):
            received = (await exchange(server, request)).lower()
            assert b"\r\ncache-control: no-store\r\n" in received
            assert b"\r\nx-content-type-options: nosniff\r\n" in received
            assert not re.search(rb"\r\nserver:", received)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_health_beyond_loopback_needs_consent(host: str) -> None:
    with pytest.raises(Misconfigured, match="HOLDFAST_API_WITHOUT_KEYS"):
        require_safe_health(Settings(health_host=host))
    require_safe_health(Settings(health_host=host, api_without_keys=True))
    require_safe_health(Settings(health_host="127.0.0.1"))


@pytest.mark.parametrize(("host", "answered"), [("127.0.0.1", 421), ("0.0.0.0", 200)])
async def test_metrics_on_loopback_are_closed_to_other_web_sites(host: str, answered: int) -> None:
    """They hold the names of tasks and queues; beyond loopback clients may use any name."""
    settings = Settings(health_host=host, health_port=0, api_without_keys=True)
    metrics, log = Metrics("worker"), create_logger(stream=StringIO())
    server, task = await start_health(settings, dict, metrics, log)
    statuses = {}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        for path in ("/metrics", "/readyz"):
            statuses[path] = (await client.get(path, headers={"Host": "evil.example"})).status_code
        assert (await client.get("/metrics")).status_code == 200
    await stop_server(server, task)
    assert statuses == {"/metrics": answered, "/readyz": 200}


def test_connections_leave_files_for_other_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.runtime.file_limit import connections_within

    check: Callable[[int, int], int] = connections_within
    assert check(65_536, 2000) == 2000
    assert check(1024, 2000) == 824
    assert check(64, 2000) == 32
