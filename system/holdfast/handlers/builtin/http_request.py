"""http_request: call an HTTP server with the task's effect key.

Delivery is at least once. The ``Idempotency-Key`` is the same in every attempt, so the receiver can
deduplicate; ``Holdfast-Epoch`` grows with every attempt, so it can also fence older ones.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Literal

import httpcore
import httpx
from opentelemetry.trace import StatusCode
from opentelemetry.util.types import AttributeValue
from pydantic import AfterValidator, Field, model_validator

from holdfast.handlers.builtin.foreign_text import decode
from holdfast.handlers.builtin.http_access import AllowedHosts, CheckedNetwork, Refused
from holdfast.handlers.builtin.payload import Payload, parse
from holdfast.handlers.context import Context
from holdfast.handlers.errors import Discard, Retry
from holdfast.settings import Settings

REDIRECTS_MAX = 5
BODY_BYTES_MAX = 64 * 1024
RETRY_AFTER_SECONDS_MAX = 3600.0
_CONNECTIONS_MAX = 100
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRIED = frozenset({408, 425, 429})
_RETURNED_HEADERS = (
    *("content-type", "content-length", "content-encoding", "etag", "last-modified"),
    *("location", "retry-after", "date", "x-request-id"),
)
_RESERVED_HEADERS = frozenset(
    {
        *("host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "expect"),
        *("accept-encoding", "proxy-authorization", "proxy-connection"),
        *("idempotency-key", "holdfast-epoch", "traceparent"),
    }
)
# A header with one of these words in its name holds a credential, such as X-Api-Key.
_CREDENTIAL_WORDS = frozenset(
    {
        *("authorization", "auth", "cookie", "key", "apikey", "token", "secret", "password"),
        *("credential", "credentials", "session", "signature"),
    }
)
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not name or not set(name.lower()) <= _TOKEN:
            raise ValueError(f"{name!r} is not a valid header name")
        if name.lower() in _RESERVED_HEADERS:
            raise ValueError(f"the header {name!r} is set by Holdfast: omit it")
        if not value.isprintable() or not value.isascii() or value != value.strip():
            raise ValueError(
                f"the value of {name!r} must be printable ASCII, without spaces at its ends"
            )
    return headers


class HttpPayload(Payload):
    """The payload: at most one of ``body`` (text) and ``json``.

    Empty ``expected_statuses`` means any 2xx.
    """

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "POST"
    url: str = Field(max_length=8192)
    headers: Annotated[dict[str, str], Field(max_length=50), AfterValidator(_headers)] = Field(
        default_factory=dict
    )
    body: str | None = None
    json_body: Any = Field(None, alias="json")
    timeout_seconds: float = Field(30.0, gt=0, allow_inf_nan=False)
    expected_statuses: list[Annotated[int, Field(ge=100, le=599)]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_body(self) -> HttpPayload:
        if self.body is not None and "json_body" in self.model_fields_set:
            raise ValueError("give body or json, not both")
        return self

    def content(self) -> tuple[bytes | None, str | None]:
        """Return the body and its content type, None without a body."""
        if "json_body" in self.model_fields_set:
            return json.dumps(self.json_body).encode(), "application/json"
        if self.body is not None:
            return self.body.encode(), "text/plain; charset=utf-8"
        return None, None

    def expects(self, status: int) -> bool:
        """Whether a response with that status is a success."""
        if self.expected_statuses:
            return status in self.expected_statuses
        return 200 <= status <= 299


@dataclass(frozen=True, slots=True)
class Call:
    """The request of one hop."""

    method: str
    url: httpx.URL
    headers: Mapping[str, str]
    content: bytes | None

    def attributes(self, hop: int) -> dict[str, AttributeValue]:
        """Return span attributes for an HTTP client, without the query, which may hold secrets."""
        attributes: dict[str, AttributeValue] = {
            "http.request.method": self.method,
            "url.full": str(self.url.copy_with(query=None, fragment=None)),
            "server.address": self.url.host,
            "server.port": self.url.port or (443 if self.url.scheme == "https" else 80),
        }
        if hop:
            attributes["http.request.resend_count"] = hop
        return attributes

    def redirected(self, status: int, location: str) -> Call:
        """Return the next hop; credentials are dropped when the origin changes.

        303, and 301 or 302 after a POST (as browsers do), become GET.
        """
        url = self.url.join(location)
        headers = dict(self.headers)
        if _origin(url) != _origin(self.url):
            headers = {k: v for k, v in headers.items() if not _is_credential(k)}
        becomes_get = (status == 303 and self.method != "HEAD") or (
            status in {301, 302} and self.method == "POST"
        )
        if not becomes_get:
            return Call(self.method, url, headers, self.content)
        headers = {k: v for k, v in headers.items() if k.lower() != "content-type"}
        return Call("GET", url, headers, None)


@dataclass(frozen=True, slots=True)
class Reply:
    """The response to one hop; ``body`` is truncated after ``BODY_BYTES_MAX`` bytes."""

    status: int
    headers: httpx.Headers
    body: bytes
    truncated: bool


class HttpRequest:
    """The handler and its connection pool. Uses no proxy and no cookies.

    A connection serves one request: on a reused one, a response that the server sent too many would
    be taken for the answer to the next task.
    """

    def __init__(self, settings: Settings) -> None:
        self._allowed = AllowedHosts(settings.http_allowed_hosts)
        # JSON escapes one byte as up to 6 (\\u0001): the body must fit into a result.
        self._body_bytes_max = min(BODY_BYTES_MAX, settings.result_bytes_max // 8)
        self._pool: httpcore.AsyncConnectionPool | None = None

    async def close(self) -> None:
        """Close the pool."""
        if self._pool is not None:
            await self._pool.aclose()

    async def run(self, ctx: Context, payload: dict[str, Any]) -> dict[str, Any]:
        """Send the request of an ``HttpPayload``; return status, url, headers, body, truncated."""
        request = parse(HttpPayload, "http_request", payload)
        limit_seconds = min(request.timeout_seconds, ctx.remaining_seconds())
        call = _first_call(ctx, request)
        try:
            async with asyncio.timeout(limit_seconds):
                call, reply = await self._follow(ctx, call, request)
        except Refused as error:
            raise Discard(str(error)) from error
        except TimeoutError as error:
            raise Retry(reason=f"no complete response within {limit_seconds:g} s") from error
        except httpcore.LocalProtocolError as error:
            raise Discard(f"invalid payload for http_request: {error}") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            kind = type(error).__name__
            raise Retry(reason=f"the request failed: {kind} {error}".strip()) from error
        return _result(request, call, reply)

    async def _follow(self, ctx: Context, call: Call, request: HttpPayload) -> tuple[Call, Reply]:
        """Send the request and follow redirects; each hop is checked like the first."""
        for hop in range(REDIRECTS_MAX + 1):
            self._allowed.check(call.url)
            with ctx.client_span(call.method, call.attributes(hop)) as span:
                reply = await self._send(call, ctx.traceparent)
                span.set_attribute("http.response.status_code", reply.status)
                if reply.status >= 400:
                    span.set_attribute("error.type", str(reply.status))
                    span.set_status(StatusCode.ERROR)
            location = reply.headers.get("location")
            followed = reply.status in _REDIRECTS and not request.expects(reply.status)
            if not followed or location is None:
                return call, reply
            try:
                call = call.redirected(reply.status, location)
            except httpx.InvalidURL as error:
                raise Refused(f"the server redirects to an invalid URL: {error}") from error
        raise Refused(f"more than {REDIRECTS_MAX} redirects")

    async def _send(self, call: Call, traceparent: str | None) -> Reply:
        url = httpcore.URL(
            scheme=call.url.raw_scheme,
            host=call.url.raw_host,
            port=call.url.port,
            target=call.url.raw_path,
        )
        headers = {"Host": call.url.netloc.decode("ascii"), **call.headers}
        if traceparent is not None:
            headers["traceparent"] = traceparent
        connections = self._connections()
        async with connections.stream(
            call.method, url, headers=list(headers.items()), content=call.content
        ) as response:
            body, truncated = await self._read(response)
            return Reply(response.status, httpx.Headers(response.headers), body, truncated)

    async def _read(self, response: httpcore.Response) -> tuple[bytes, bool]:
        body = bytearray()
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) > self._body_bytes_max:
                return bytes(body[: self._body_bytes_max]), True
        return bytes(body), False

    def _connections(self) -> httpcore.AsyncConnectionPool:
        if self._pool is None:
            self._pool = httpcore.AsyncConnectionPool(
                ssl_context=httpx.create_ssl_context(),
                max_connections=_CONNECTIONS_MAX,
                max_keepalive_connections=0,
                network_backend=CheckedNetwork(),
            )
        return self._pool


def _first_call(ctx: Context, request: HttpPayload) -> Call:
    try:
        url = httpx.URL(request.url)
    except httpx.InvalidURL as error:
        raise Discard(f"invalid payload for http_request: url: {error}") from error
    if not url.host:
        raise Discard("invalid payload for http_request: url: it must be absolute, with a host")
    content, content_type = request.content()
    headers = {"User-Agent": "holdfast", "Accept": "*/*", "Accept-Encoding": "identity"}
    headers["Connection"] = "close"
    if content_type is not None:
        headers["Content-Type"] = content_type
    given = {name.lower() for name in request.headers}
    headers = {name: value for name, value in headers.items() if name.lower() not in given}
    headers |= request.headers
    headers["Idempotency-Key"] = ctx.effect_key
    headers["Holdfast-Epoch"] = str(ctx.epoch)
    return Call(request.method, url, headers, content)


def _result(request: HttpPayload, call: Call, reply: Reply) -> dict[str, Any]:
    if request.expects(reply.status):
        return {
            "status": reply.status,
            "url": str(call.url),
            "headers": {k: reply.headers[k] for k in _RETURNED_HEADERS if k in reply.headers},
            "body": decode(reply.body, _charset(reply.headers)),
            "truncated": reply.truncated,
        }
    text = f"{call.method} {call.url.host} returned status {reply.status}"
    if reply.status >= 500 or reply.status in _RETRIED:
        raise Retry(after=retry_after_seconds(reply.headers), reason=text)
    raise Discard(f"{text}, which is not retried")


def _charset(headers: httpx.Headers) -> str | None:
    return httpx.Response(200, headers=headers).charset_encoding


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return ``Retry-After`` (RFC 9110) in seconds, at most an hour; None if absent or invalid.

    A date is compared with the server's own ``Date``: no other clock is trusted.
    """
    value = headers.get("retry-after", "").strip()
    if value.isdecimal() and value.isascii():
        return min(float(value), RETRY_AFTER_SECONDS_MAX)
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError):
        return None
    return min(max(wait.total_seconds(), 0.0), RETRY_AFTER_SECONDS_MAX)


def _is_credential(name: str) -> bool:
    name = name.lower()
    return name != "idempotency-key" and not _CREDENTIAL_WORDS.isdisjoint(re.split("[-_.]", name))


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host, url.port
