"""http_request against a real server, and the destinations it must refuse."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import httpcore
import httpx
import pytest
from http_receiver import TASK_ID, TRACEPARENT, Server, call, context, handler, serving
from tcp_server import accepting

from holdfast.handlers import Discard, Retry
from holdfast.handlers.builtin.http_access import CheckedNetwork
from holdfast.handlers.builtin.http_request import (
    BODY_BYTES_MAX,
    Call,
    retry_after_seconds,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def _forget(server: Server) -> None:
    server.seen.clear()
    server.release.clear()


async def test_post_sends_json_with_the_effect_key_and_returns_the_response(server: Server) -> None:
    result = await call(
        {
            "url": f"{server.url}/answer/201?x=1",
            "json": {"amount": 3, "text": "\u20ac"},
            "headers": {"Authorization": "Bearer t", "X-Mine": "1"},
        }
    )
    assert result["status"] == 201
    assert result["body"] == "it went fine"
    assert result["truncated"] is False
    assert result["headers"]["content-type"].startswith("text/plain")
    method, path, headers, body = server.seen[0]
    assert (method, path) == ("POST", "/answer/201")
    assert httpx.Response(200, content=body).json() == {"amount": 3, "text": "\u20ac"}
    assert headers["content-type"] == "application/json"
    assert headers["idempotency-key"] == str(TASK_ID)
    assert headers["holdfast-epoch"] == "3"
    assert headers["traceparent"] == TRACEPARENT
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert headers["authorization"] == "Bearer t"
    assert headers["x-mine"] == "1"


async def test_text_bodies_and_requests_without_a_body(server: Server) -> None:
    await call({"url": f"{server.url}/answer/200", "body": "h\u00e9"})
    await call({"url": f"{server.url}/answer/200", "method": "GET"})
    await call({"url": f"{server.url}/answer/200", "json": None})
    assert [(m, body) for m, _, _, body in server.seen] == [
        ("POST", "h\u00e9".encode()),
        ("GET", b""),
        ("POST", b"null"),
    ]
    assert server.seen[0][2]["content-type"] == "text/plain; charset=utf-8"
    assert "content-type" not in server.seen[1][2]


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
async def test_client_errors_are_discarded(server: Server, status: int) -> None:
    with pytest.raises(Discard, match=f"returned status {status}"):
        await call({"url": f"{server.url}/answer/{status}"})


@pytest.mark.parametrize(
    ("path", "after"),
    [
        ("/answer/500", None),
        ("/answer/408", None),
        ("/limited/503/7", 7.0),
        ("/limited/429/2", 2.0),
        ("/limited/503/999999999", 3600.0),
        ("/limited/503/soon", None),
    ],
)
async def test_server_errors_and_rate_limits_are_retried_after_the_given_delay(
    server: Server, path: str, after: float | None
) -> None:
    with pytest.raises(Retry, match="returned status") as caught:
        await call({"url": f"{server.url}{path}", "method": "GET"})
    assert caught.value.after_seconds == after


def test_retry_after_date_is_relative_to_the_servers_clock() -> None:
    date = "Fri, 09 Jan 2026 10:00:00 GMT"
    later = "Fri, 09 Jan 2026 10:00:42 GMT"
    assert retry_after_seconds({"retry-after": later, "date": date}) == 42
    assert retry_after_seconds({"retry-after": date, "date": later}) == 0
    assert retry_after_seconds({"retry-after": later}) is None
    assert retry_after_seconds({"retry-after": "-5", "date": date}) is None
    assert retry_after_seconds({}) is None


async def test_expected_statuses_override_the_default(server: Server) -> None:
    result = await call({"url": f"{server.url}/answer/409", "expected_statuses": [200, 409]})
    assert result["status"] == 409
    with pytest.raises(Discard, match="returned status 201"):
        await call({"url": f"{server.url}/answer/201", "expected_statuses": [200]})
    unfollowed = {"url": f"{server.url}/redirect/302?to=/answer/200", "expected_statuses": [302]}
    assert (await call(unfollowed))["headers"]["location"] == "/answer/200"


@pytest.mark.parametrize(
    ("method", "status", "second", "body"),
    [
        ("POST", 302, "GET", b""),
        ("POST", 303, "GET", b""),
        ("POST", 307, "POST", b"hello"),
        ("POST", 308, "POST", b"hello"),
    ],
)
async def test_redirects_are_followed_with_the_effect_key(
    server: Server, method: str, status: int, second: str, body: bytes
) -> None:
    url = f"{server.url}/redirect/{status}?to=/answer/200"
    result = await call({"url": url, "method": method, "body": "hello"})
    assert result["url"] == f"{server.url}/answer/200"
    assert [(m, p, b) for m, p, _, b in server.seen] == [
        (method, f"/redirect/{status}", b"hello"),
        (second, "/answer/200", body),
    ]
    assert server.seen[1][2]["idempotency-key"] == str(TASK_ID)


async def test_credentials_are_not_sent_to_another_origin(server: Server) -> None:
    to = f"http://localhost:{server.port}/answer/200"
    payload = {
        "url": f"{server.url}/redirect/307?to={to}",
        "headers": {
            "Authorization": "Bearer t",
            "Cookie": "a=b",
            "X-Api-Key": "k",
            "X_TOKEN": "t",
            "X-Mine": "1",
        },
    }
    await call(payload, "127.0.0.1", "localhost")
    first, second = server.seen[0][2], server.seen[1][2]
    assert first["authorization"] == "Bearer t"
    assert "authorization" not in second
    assert first["x-api-key"] == "k"
    assert not {"cookie", "x-api-key", "x_token"} & second.keys()
    assert second["idempotency-key"] == str(TASK_ID)
    assert second["x-mine"] == "1"
    assert second["host"] == f"localhost:{server.port}"


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("http://localhost:{port}/answer/200", "'localhost' .* is not allowed"),
        ("http://169.254.169.254/latest/meta-data", "'169.254.169.254' .* is not allowed"),
        ("ftp://127.0.0.1/file", "scheme 'ftp' is refused"),
        ("file:///etc/passwd", "scheme 'file' is refused"),
        ("http://user:secret@127.0.0.1/", "user name or password"),
    ],
)
async def test_every_hop_of_a_redirect_is_checked(server: Server, to: str, message: str) -> None:
    target = to.format(port=server.port)
    with pytest.raises(Discard, match=message):
        await call({"url": f"{server.url}/redirect/302?to={target}", "method": "GET"})
    assert len(server.seen) == 1


async def test_redirects_are_limited(server: Server) -> None:
    with pytest.raises(Discard, match="more than 5 redirects"):
        await call({"url": f"{server.url}/loop", "method": "GET"})
    assert len(server.seen) == 6


async def test_no_host_is_allowed_by_default(server: Server) -> None:
    async with handler() as http:
        with pytest.raises(Discard, match="add it to HOLDFAST_HTTP_ALLOWED_HOSTS"):
            await http.run(context(), {"url": f"{server.url}/answer/200"})
    assert server.seen == []


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0:{port}/answer/200",
        "http://[::]:{port}/answer/200",
        "http://224.0.0.1/",
    ],
)
async def test_forbidden_addresses_are_refused_even_if_their_host_is_allowed(
    server: Server, url: str
) -> None:
    target = url.format(port=server.port)
    host = httpx.URL(target).host
    allowed = f"[{host}]" if ":" in host else host
    with pytest.raises(Discard, match="always refused"):
        await call({"url": target}, allowed)
    assert server.seen == []


async def test_name_is_resolved_once_and_any_forbidden_address_refuses_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [["127.0.0.1"], ["127.0.0.1", "169.254.169.254"], ["169.254.169.254"]]
    asked: list[str] = []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        found = answers[len(asked) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    payload = {"url": f"http://rebind.example:{server.port}/answer/200"}
    result = await call(payload, "rebind.example")
    assert result["status"] == 200
    assert server.seen[0][2]["host"] == f"rebind.example:{server.port}"
    for _ in range(2):
        with pytest.raises(Discard, match=r"'rebind\.example' resolves to 169\.254\.169\.254"):
            await call(payload, "rebind.example")
    assert asked == ["rebind.example"] * 3
    assert len(server.seen) == 1


async def test_tls_sends_the_host_name_not_the_address() -> None:
    hello = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello.set_result(await reader.read(4096))
        writer.close()

    async with accepting(accept) as port:
        with pytest.raises(Retry, match="the request failed"):
            await call({"url": f"https://localhost:{port}/"}, "localhost")
    assert b"localhost" in await hello


async def test_large_response_is_truncated(server: Server) -> None:
    result = await call({"url": f"{server.url}/bytes/{1 << 30}", "method": "GET"})
    assert result["truncated"] is True
    assert len(result["body"]) == BODY_BYTES_MAX


async def test_bodies_become_text_that_jsonb_can_store(server: Server) -> None:
    binary = await call({"url": f"{server.url}/binary", "method": "GET"})
    assert binary["body"] == "a\ufffdb\ufffd"
    latin = await call({"url": f"{server.url}/latin", "method": "GET"})
    assert latin["body"] == "caf\u00e9"


async def test_slow_response_times_out_and_is_retried(server: Server) -> None:
    slow = {"url": f"{server.url}/slow", "method": "GET", "timeout_seconds": 0.2}
    with pytest.raises(Retry, match=r"no complete response within 0\.2 s"):
        await call(slow)
    with pytest.raises(Retry, match="no complete response within"):
        await call({**slow, "timeout_seconds": 60}, timeout_seconds=0.2)
    server.release.set()


async def test_unreachable_server_is_retried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Retry, match="the request failed: ConnectError"):
        await call({"url": f"http://127.0.0.1:{port}/"})
    with pytest.raises(Retry, match=r"no\.such\.host\.invalid' cannot be resolved"):
        await call({"url": "http://no.such.host.invalid/"}, "no.such.host.invalid")


async def test_surplus_response_is_not_taken_for_the_answer_to_another_task() -> None:
    asked: list[bytes] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        first = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % len(asked)
        writer.write(first + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        await reader.read()  # the client closes the connection
        writer.close()

    async with accepting(accept) as port, handler("127.0.0.1") as http:
        url = f"http://127.0.0.1:{port}"
        answers = [
            await http.run(context(), {"url": f"{url}{path}", "method": "GET"})
            for path in ("/one", "/two", "/three")
        ]
    assert [answer["body"] for answer in answers] == ["1", "2", "3"]
    for request, path in zip(asked, ("/one", "/two", "/three"), strict=True):
        assert request.startswith(f"GET {path} HTTP/1.1\r\n".encode())
        assert b"\r\nConnection: close\r\n" in request


@pytest.mark.parametrize(
    ("charset", "body", "text"),
    [
        ("undefined", b"a", "a"),
        ("idna", b"a", "a"),
        ("unicode_escape", b"\\ud800", "\\ud800"),
        ("utf-7", b"+2AA-", "+2AA-"),
        ("punycode", b"a-" * 1000, "a-" * 1000),
        ("hex", b"zz", "zz"),
        ("no-such-charset", "\u20ac".encode(), "\u20ac"),
        ("x" * 5000, b"a", "a"),
        ("windows-1252", b"\x80", "\u20ac"),
        ("utf-16", "\u20ac".encode("utf-16"), "\u20ac"),
        ("utf-8", b"\xed\xa0\x80", "\ufffd" * 3),
    ],
)
async def test_no_charset_of_the_server_fails_a_request_that_took_effect(
    charset: str, body: bytes, text: str
) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        kind = f"Content-Type: text/plain; charset={charset}"
        head = f"HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        writer.close()

    async with accepting(accept) as port:
        result = await call({"url": f"http://127.0.0.1:{port}/"})
    assert result["body"] == text


async def test_names_that_cannot_be_resolved_are_discarded(server: Server) -> None:
    label = "a" * 64
    with pytest.raises(Discard, match="is not the name of a host"):
        await call({"url": f"http://{label}.example/"}, "*.example")
    redirect = f"{server.url}/redirect/307?to=http://{label}.example/"
    with pytest.raises(Discard, match="is not the name of a host"):
        await call({"url": redirect}, "127.0.0.1", "*.example")


async def test_cookies_are_not_kept(server: Server) -> None:
    async with handler("127.0.0.1") as http:
        await http.run(context(), {"url": f"{server.url}/cookie", "method": "GET"})
        await http.run(context(), {"url": f"{server.url}/answer/200", "method": "GET"})
    assert "cookie" not in server.seen[1][2]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({}, "url: Field required"),
        ({"url": "http://x", "verb": "GET"}, "verb: Extra inputs"),
        ({"url": "http://x", "method": "BREW"}, "method: Input should be"),
        ({"url": "http://x", "body": "a", "json": 1}, "body or json, not both"),
        ({"url": "http://x", "headers": {"Idempotency-Key": "mine"}}, "is set by Holdfast"),
        ({"url": "http://x", "headers": {"a b": "c"}}, "is not a valid header name"),
        ({"url": "http://x", "headers": {"a": "b\r\nc: d"}}, "printable ASCII"),
        ({"url": "http://x", "headers": {"a": " b "}}, "without spaces at its ends"),
        ({"url": "http://x:99999999/"}, "port 99999999 is invalid"),
        ({"url": "http://x:0/"}, "port 0 is invalid"),
        ({"url": "http://x:y/"}, "url: "),
        ({"url": "/relative"}, "must be absolute"),
        ({"url": "http://x", "timeout_seconds": 0}, "timeout_seconds: "),
        ({"url": "http://x", "timeout_seconds": float("inf")}, "timeout_seconds: "),
    ],
)
async def test_invalid_payloads_are_discarded_with_the_reason(
    payload: dict[str, Any], message: str
) -> None:
    with pytest.raises(Discard, match=message):
        await call(payload, "x")


@pytest.mark.parametrize(
    ("url", "port"),
    [("https://example.com/a", 443), ("http://example.com/a", 80), ("http://example.com:81/", 81)],
)
def test_span_of_a_call_names_the_port_of_the_server(url: str, port: int) -> None:
    attributes = Call("GET", httpx.URL(url), {}, None).attributes(0)
    assert (attributes["server.address"], attributes["server.port"]) == ("example.com", port)


async def test_next_address_of_a_name_is_tried(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        found = ["127.0.0.2", "127.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    stream = await CheckedNetwork().connect_tcp("two.example", server.port, timeout=5)
    assert isinstance(stream, httpcore.AsyncNetworkStream)
    assert stream.get_extra_info("server_addr")[0] == "127.0.0.1"
    await stream.aclose()
