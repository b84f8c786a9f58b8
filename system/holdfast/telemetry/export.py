"""Export finished spans to an OTLP collector without delaying the code that is traced.

The SDK's batch processor exports from a thread, which would outlive a simulated kill and cannot be
simulated; this exporter is a task of the role's event loop. If the collector is down, slow or
faulty, spans that do not fit into the bounded queue are dropped; nothing else is affected.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ssl
from collections import deque
from collections.abc import Sequence

import httpx
from google.protobuf.message import DecodeError
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.trace import Link, Status, StatusCode

from holdfast.telemetry.event_names import ErrorCode, EventName
from holdfast.telemetry.log_limit import LogLimit
from holdfast.telemetry.logs import Logger
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.otlp import SpanDestination
from holdfast.telemetry.trace_context import Attributes, FinishedSpan

QUEUE_MAX = 2048
BATCH_MAX = 256
_ANSWER_BYTES_MAX = 64 << 10  # a conforming response is empty or lists the rejected spans
_CLOSE_SECONDS = 2.0
_ENCODED_AT_ONCE = 32
_TRIES = 2
_SCOPE = "holdfast"
_REPORT_SECONDS = 60.0
_TROUBLES = (EventName.COLLECTOR_FAILED, EventName.COLLECTOR_REFUSED)
_REASON_MAX = 200  # characters of a collector's explanation in the log
_HEADERS = {
    "Content-Type": "application/x-protobuf",
    "User-Agent": "holdfast",
    "Accept-Encoding": "identity",
}


class _Failed(Exception):
    """The collector did not take a request; a resend may succeed."""


class SpanExport(SpanProcessor):
    """Accepts ended spans from any thread; sends them between ``start`` and ``aclose``."""

    def __init__(
        self,
        destination: SpanDestination,
        service: Attributes,
        metrics: Metrics,
        log: Logger,
        *,
        export_seconds: float,
    ) -> None:
        """``service``: attributes of every span's resource, unless ``destination`` overrides them;
        at most ``export_seconds`` until a span is sent.

        Raises:
            ValueError: a certificate or key of ``destination`` cannot be read.
        """
        self._destination = destination
        self._headers = {**_HEADERS, **destination.headers}
        if destination.gzip:
            self._headers["Content-Encoding"] = "gzip"
        self._tls = _tls(destination)
        # Not Resource.create: its detectors run in threads.
        self._resource = Resource(
            {
                **service,
                **destination.resource,
                "telemetry.sdk.language": "python",
                "telemetry.sdk.name": "opentelemetry",
                "telemetry.sdk.version": sdk_version,
            }
        )
        self._metrics = metrics
        self._log = log
        self._export_seconds = export_seconds
        self._waiting: deque[ReadableSpan] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._trouble: EventName | None = None  # as logged last, until it is over
        self._limits = {trouble: LogLimit(1, _REPORT_SECONDS) for trouble in _TROUBLES}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._client: httpx.AsyncClient | None = None

    def tracer(self) -> trace.Tracer:
        """Create a tracer whose spans are exported here."""
        provider = TracerProvider(
            sampler=ALWAYS_ON,  # callers have checked the flags
            resource=self._resource,
            shutdown_on_exit=False,
            id_generator=RandomIdGenerator(),
            meter_provider=NoOpMeterProvider(),
        )
        provider.add_span_processor(self)
        return provider.get_tracer(_SCOPE)

    def record(self, span: FinishedSpan) -> None:
        """Take a span that is over.

        Built as the SDK hands it to exporters: the SDK's tracer accepts no ids chosen beforehand,
        and takes 66 us instead of 4.
        """
        attributes, status = dict(span.attributes), Status()
        if span.error is not None:
            attributes["error.type"], status = span.error, Status(StatusCode.ERROR)
        self.on_end(
            ReadableSpan(
                span.name,
                span.context,
                span.parent,
                self._resource,
                attributes,
                [Event(each.name, each.attributes, each.at) for each in span.events],
                [Link(context) for context in span.links],
                span.kind,
                status=status,
                start_time=span.start,
                end_time=max(span.start, span.end),
                instrumentation_scope=InstrumentationScope(_SCOPE),
            )
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span without waiting; drop it if the queue is full."""
        if self._closing or len(self._waiting) >= QUEUE_MAX:
            self._metrics.spans.labels("dropped").inc()
            return
        self._waiting.append(span)
        if len(self._waiting) == BATCH_MAX and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    def start(self) -> None:
        """Start the export on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._client = httpx.AsyncClient(
            trust_env=False, timeout=self._destination.timeout_seconds, verify=self._tls
        )
        self._task = self._loop.create_task(self._run(self._client), name="span export")

    async def aclose(self) -> None:
        """Send the queued spans; drop those not sent within two seconds."""
        self._closing = True
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                if self._task is not None:
                    await self._task
        if self._client is not None:  # also after the timeout
            await self._client.aclose()
        self._metrics.spans.labels("dropped").inc(len(self._waiting))
        self._waiting.clear()

    async def _run(self, client: httpx.AsyncClient) -> None:
        while not self._over():
            await self._pause()
            await self._send(client)
            while len(self._waiting) >= BATCH_MAX:
                await self._send(client)

    def _over(self) -> bool:
        return self._closing and not self._waiting

    async def _pause(self) -> None:
        if not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._export_seconds):
                    await self._wake.wait()
            self._wake.clear()

    async def _send(self, client: httpx.AsyncClient) -> None:
        """Send one batch, with at most one retry."""
        batch = [self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))]
        if not batch:
            return
        refused, sent = 0, False
        try:
            body = await _encoded(batch, compressed=self._destination.gzip)
            for tried in range(1, _TRIES + 1):
                try:
                    refused, sent = await self._post(client, body, len(batch)), True
                    break
                except _Failed as error:
                    self._report(EventName.COLLECTOR_FAILED, str(error))
                if tried < _TRIES:
                    await self._pause()
        except Exception:  # noqa: BLE001  an unencodable span must not end the export
            self._log.exception(
                "Spans could not be encoded",
                event_name=EventName.SPANS_UNENCODABLE,
                spans=len(batch),
            )
        finally:
            self._metrics.spans.labels("refused").inc(refused)
            self._metrics.spans.labels("exported" if sent else "lost").inc(len(batch) - refused)

    async def _post(self, client: httpx.AsyncClient, body: bytes, spans: int) -> int:
        """Send one request; return how many of its spans the collector refused for good.

        Raises:
            _Failed: there was no answer, or the collector asks for another try.
        """
        url = self._destination.url
        try:
            async with (
                asyncio.timeout(self._destination.timeout_seconds),
                client.stream("POST", url, content=body, headers=self._headers) as response,
            ):
                answer = await _read_answer(response)
                status = response.status_code
        except (httpx.HTTPError, httpx.StreamError, OSError, TimeoutError) as error:
            raise _Failed(f"{type(error).__name__} {error}".strip()) from error
        if status >= 500 or status in {408, 429}:
            raise _Failed(f"HTTP status {status}")
        if not 200 <= status <= 299:
            self._report(EventName.COLLECTOR_REFUSED, f"HTTP status {status} {_shown(answer)}")
            return spans
        refused, why = _partial_success(answer)
        if refused:
            self._report(EventName.COLLECTOR_REFUSED, f"{refused} of {spans} spans: {why}")
        else:
            self._recovered()
        return min(refused, spans)

    def _report(self, trouble: EventName, why: str) -> None:
        """Log the first of consecutive failures, or refusals, at most once a minute."""
        if self._trouble == trouble or self._limits[trouble].admit() is None:
            return
        self._trouble = trouble
        failed = trouble is EventName.COLLECTOR_FAILED
        self._log.warning(
            "Trace collector does not accept spans" if failed else "Trace collector refuses spans",
            event_name=trouble,
            error=why.strip(),
            error_code=ErrorCode.COLLECTOR_UNAVAILABLE if failed else ErrorCode.COLLECTOR_REFUSED,
        )

    def _recovered(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            self._log.info(
                "Trace collector accepts spans again", event_name=EventName.COLLECTOR_RECOVERED
            )


async def _encoded(spans: Sequence[ReadableSpan], *, compressed: bool) -> bytes:
    """Encode in slices, so that the event loop is never blocked for more than a few ms."""
    request = ExportTraceServiceRequest()
    for start in range(0, len(spans), _ENCODED_AT_ONCE):
        request.MergeFrom(encode_spans(spans[start : start + _ENCODED_AT_ONCE]))
        await asyncio.sleep(0)
    body: bytes = request.SerializeToString()
    return gzip.compress(body, compresslevel=1, mtime=0) if compressed else body


def _tls(destination: SpanDestination) -> ssl.SSLContext | bool:
    """Return the TLS configuration, or False if the destination uses none."""
    if not destination.url.startswith("https:"):
        return False
    context = httpx.create_ssl_context(trust_env=False)
    try:
        if destination.certificate:
            context = ssl.create_default_context(cafile=destination.certificate)
        if destination.client_certificate:
            context.load_cert_chain(destination.client_certificate, destination.client_key)
    except OSError as error:
        files = (destination.certificate, destination.client_certificate, destination.client_key)
        named = ", ".join(file for file in files if file)
        raise ValueError(
            f"the certificates for the trace collector cannot be read ({named}): {error}"
        ) from error
    return context


async def _read_answer(response: httpx.Response) -> bytes:
    """Drain the response so that the connection can be reused, up to a size limit."""
    answer = bytearray()
    async for chunk in response.aiter_raw():
        answer += chunk
        if len(answer) > _ANSWER_BYTES_MAX:
            break
    return bytes(answer)


def _partial_success(answer: bytes) -> tuple[int, str]:
    """Return how many spans an accepted request lost, and the collector's reason."""
    try:
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
    except DecodeError:  # some collectors answer with text or JSON
        return 0, ""
    return max(0, partial.rejected_spans), partial.error_message[:_REASON_MAX]


def _shown(answer: bytes) -> str:
    """Return the printable part of an explanation, which is text or a protobuf Status."""
    text = answer[: 4 * _REASON_MAX].decode("utf-8", "replace")
    return "".join(c for c in text if c.isprintable() and c != "\ufffd")[:_REASON_MAX]
