"""A small OTLP/HTTP collector that keeps received spans, or misbehaves as configured."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Encoded
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from tcp_server import accepting
from waiting import until

_PARTIAL: bytes = ExportTraceServiceResponse(
    partial_success=ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
).SerializeToString()
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

# The answer to a POST by name; None: it never answers.
ANSWERS: dict[str, bytes | None] = {
    "ok": _OK,
    "paused": None,
    "dripping": b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 10_000,
    "500": b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops",
    "401": b"HTTP/1.1 401 No\r\nContent-Length: 13\r\n\r\n\x08\x10no such key",
    "partial": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(_PARTIAL), _PARTIAL),
    "400": b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n",
    "garbage": b"\x00\xffnot HTTP at all\r\n\r\n" * 20,
    "broken off": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
    "empty": b"",
    "endless": b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (1 << 20),
    "no gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """One received span."""

    service: str
    instance: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    start: int
    end: int
    error: bool
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    events: dict[str, dict[str, Any]]
    resource: dict[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        return self.trace_id, self.span_id

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-01"


@dataclass
class Receiver:
    """A collector at ``url``; ``answer`` selects its answer to the next POST."""

    url: str
    answer: str = "ok"
    posts: int = 0
    spans: list[Seen] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    content_types: set[str] = field(default_factory=set)
    headers: dict[str, str] = field(default_factory=dict)  # of the last POST

    def named(self, name: str, task_id: UUID | None = None) -> list[Seen]:
        """Return the spans of this name (and task), ordered by start."""
        found = [span for span in self.spans if span.name == name]
        if task_id is not None:
            found = [s for s in found if s.attributes.get("holdfast.task.id") == str(task_id)]
        return sorted(found, key=lambda span: span.start)

    def one(self, name: str, task_id: UUID | None = None) -> Seen:
        (span,) = self.named(name, task_id)
        return span

    async def until(self, name: str, count: int = 1, task_id: UUID | None = None) -> list[Seen]:
        """Wait until ``count`` spans of this name (and task) were received; return them."""
        await until(lambda: len(self.named(name, task_id)) >= count)
        return self.named(name, task_id)

    def orphans(self, *roots: str) -> list[Seen]:
        """Return spans whose parent was not received and is not one of ``roots`` (traceparents)."""
        known = {span.key for span in self.spans}
        known |= {(root.split("-")[1], root.split("-")[2]) for root in roots}
        return [s for s in self.spans if s.parent_id and (s.trace_id, s.parent_id) not in known]

    def loose_links(self) -> list[Seen]:
        """Return spans with a link to a span that was not received."""
        known = {span.key for span in self.spans}
        return [span for span in self.spans if not known.issuperset(span.links)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._one_post(reader, writer):
                    pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _one_post(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = head.split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        self.headers = headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers["content-length"]))
        self.posts += 1
        self.paths.add(lines[0].split()[1])
        self.content_types.add(headers["content-type"])
        answer = ANSWERS[self.answer]
        if answer is None:
            await reader.read()  # until the caller gives up
            return False
        if self.answer == "ok":
            zipped = headers.get("content-encoding") == "gzip"
            self.spans += decode(gzip.decompress(body) if zipped else body)
        if self.answer == "dripping":
            for byte in answer:  # each byte arrives before the timeout, the whole never
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)
        writer.write(answer)
        await writer.drain()
        return self.answer in {"ok", "500", "400", "401", "partial"}


def decode(body: bytes) -> list[Seen]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        _seen(span, _values(resource.resource.attributes))
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _seen(span: Encoded, resource: dict[str, Any]) -> Seen:
    kind: str = Encoded.SpanKind.Name(span.kind)
    return Seen(
        service=resource["service.name"],
        instance=resource["service.instance.id"],
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=kind.removeprefix("SPAN_KIND_"),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        error=span.status.code == Status.STATUS_CODE_ERROR,
        attributes=_values(span.attributes),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        events={event.name: _values(event.attributes) for event in span.events},
        resource=resource,
    )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    return getattr(pair.value, str(pair.value.WhichOneof("value")))


@contextlib.asynccontextmanager
async def receiving(answer: str = "ok") -> AsyncIterator[Receiver]:
    """Run a receiver on a free loopback port; close its connections at the end."""
    receiver = Receiver("", answer)
    async with accepting(receiver.serve) as port:
        receiver.url = f"http://127.0.0.1:{port}"
        yield receiver
