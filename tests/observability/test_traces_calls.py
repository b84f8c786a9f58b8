"""Calls of the built-in handlers to other systems: a CLIENT span with a propagated context."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope
from http_receiver import Server, context, granted, handler, serving
from otlp_receiver import Receiver, Seen, receiving

from holdfast.handlers import Context, Retry
from holdfast.handlers.builtin.send_email import SendEmail
from holdfast.instrumentation.attempt_span import AttemptSpan
from holdfast.settings import Settings
from holdfast.telemetry.logs import create_logger
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.otlp import span_destination
from holdfast.telemetry.trace_context import new_root
from holdfast.telemetry.tracing import create_tracing


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@contextlib.asynccontextmanager
async def attempt(collector: Receiver) -> AsyncIterator[AttemptSpan]:
    """Yield the span of a running attempt."""
    log = create_logger(level="ERROR")
    tracing = create_tracing(
        span_destination(collector.url, {}),
        1.0,
        Metrics("test"),
        log,
        role="worker",
        label="w",
        version="1",
    )
    tracing.start()
    yield AttemptSpan(tracing, granted(), new_root(1.0), uuid4())
    await tracing.aclose()


async def run(function: Any, ctx: Context, payload: dict[str, Any]) -> Any:
    """Run a handler as a worker does."""
    assert ctx._span is not None
    inside = ctx._span.inside()
    return await asyncio.get_running_loop().create_task(function(ctx, payload), context=inside)


def below(attempt: AttemptSpan, spans: list[Seen]) -> bool:
    return {span.parent_id for span in spans} == {f"{attempt.context.span_id:016x}"}


async def test_every_hop_of_a_request_is_a_span(server: Server) -> None:
    start = f"{server.url}/redirect/302?to=/answer/200%3Fsecret=s3cr3t"
    async with receiving() as collector, handler("127.0.0.1") as http:
        async with attempt(collector) as own:
            await run(http.run, context(span=own), {"url": start, "method": "GET"})
            failing = {"url": f"{server.url}/answer/503", "method": "GET"}
            with pytest.raises(Retry):
                await run(http.run, context(span=own), failing)
        spans = collector.named("GET")
    assert below(own, spans)
    assert {span.kind for span in spans} == {"CLIENT"}
    assert [span.attributes.get("http.request.resend_count") for span in spans] == [None, 1, None]
    statuses = [span.attributes["http.response.status_code"] for span in spans]
    assert statuses == [302, 200, 503]
    assert [span.error for span in spans] == [False, False, True]
    assert spans[1].attributes["url.full"] == f"{server.url}/answer/200"
    assert spans[1].attributes["server.address"] == "127.0.0.1"
    assert spans[1].attributes["server.port"] == server.port
    sent = [headers["traceparent"] for _, _, headers, _ in server.seen]
    assert sent == [span.traceparent for span in spans]
    assert "s3cr3t" not in str(spans)


async def test_request_without_a_response_is_an_error() -> None:
    async with receiving() as collector, handler("127.0.0.1") as http:
        async with attempt(collector) as own:
            nowhere = {"url": "http://127.0.0.1:1/", "method": "PUT"}
            with pytest.raises(Retry):
                await run(http.run, context(span=own), nowhere)
        span = collector.one("PUT")
    assert (span.error, span.attributes["error.type"]) == (True, "ConnectError")


class Mailbox:
    """Keeps the headers of the latest message."""

    traceparent: str | None = None

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        lines = content.decode().splitlines()
        (line,) = [line for line in lines if line.startswith("traceparent: ")]
        self.traceparent = line.removeprefix("traceparent: ")
        return "250 taken"


async def test_mail_is_a_span_and_carries_its_context() -> None:
    mailbox = Mailbox()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        async with receiving() as collector:
            async with attempt(collector) as own:
                mail = SendEmail(Settings(smtp_port=port))
                await run(mail.run, context(span=own), {"to": "user@example.com"})
            span = collector.one("smtp send")
    finally:
        controller.stop()
    assert below(own, [span])
    assert (span.kind, span.attributes["server.port"]) == ("CLIENT", port)
    assert mailbox.traceparent == span.traceparent
    assert "user@example.com" not in str(span)
