"""Export finished spans to an OTLP collector without delaying the code that is traced.

The SDK's batch processor exports from a thread, which would outlive a simulated kill and cannot be
simulated; this exporter is a task of the role's event loop. If the collector is down, slow or
faulty, spans that do not fit into the bounded queue are dropped; nothing else is affected.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto

import httpx
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.trace import Link, Status, StatusCode

from holdfast.telemetry.event_names import ErrorCode, EventName
from holdfast.telemetry.logs import Logger
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.trace_context import Attributes, FinishedSpan

QUEUE_MAX = 2048
BATCH_MAX = 256
_ANSWER_SECONDS = 2.0
_ANSWER_BYTES_MAX = 64 << 10  # a conforming response is empty or lists the rejected spans
_CLOSE_SECONDS = 2.0
_ENCODED_AT_ONCE = 32
_TRIES = 2
_SCOPE = "holdfast"
_HEADERS = {"Content-Type": "application/x-protobuf", "User-Agent": "holdfast"}


class _Answer(Enum):
    ACCEPTED = auto()
    REFUSED = auto()  # permanent: a resend cannot succeed
    FAILED = auto()


class SpanExport(SpanProcessor):
    """Accepts ended spans from any thread; sends them between ``start`` and ``aclose``."""

    def __init__(
        self,
        endpoint: str,
        service: Attributes,
        metrics: Metrics,
        log: Logger,
        *,
        export_seconds: float,
    ) -> None:
        """``endpoint``: the collector's base URL; ``service``: attributes of every span's resource;
        at most ``export_seconds`` until a span is sent.

        Raises:
            ValueError: ``endpoint`` is not an HTTP URL.
        """
        self._url = _traces_url(endpoint)
        # Not Resource.create: its detectors run in threads.
        self._resource = Resource(
            {
                **service,
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
        self._failing = False
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
            trust_env=False, timeout=_ANSWER_SECONDS, verify=_tls(self._url)
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
        result = "lost"
        try:
            body = await _encoded(batch)
            for tried in range(1, _TRIES + 1):
                answer = await self._post(client, body)
                if answer is not _Answer.FAILED:
                    result = "exported" if answer is _Answer.ACCEPTED else "refused"
                    break
                if tried < _TRIES:
                    await self._pause()
        except Exception:  # noqa: BLE001  an unencodable span must not end the export
            self._log.exception(
                "Spans could not be encoded",
                event_name=EventName.SPANS_UNENCODABLE,
                spans=len(batch),
            )
        finally:
            self._metrics.spans.labels(result).inc(len(batch))

    async def _post(self, client: httpx.AsyncClient, body: bytes) -> _Answer:
        try:
            async with (
                asyncio.timeout(_ANSWER_SECONDS),
                client.stream("POST", self._url, content=body, headers=_HEADERS) as response,
            ):
                await _read_to_the_end(response)
                status = response.status_code
        except (httpx.HTTPError, httpx.StreamError, OSError, TimeoutError) as error:
            return self._failed(f"{type(error).__name__} {error}".strip())
        if status >= 500 or status in {408, 429}:
            return self._failed(f"HTTP status {status}")
        if self._failing:
            self._failing = False
            self._log.info(
                "Trace collector accepts spans again", event_name=EventName.COLLECTOR_RECOVERED
            )
        return _Answer.ACCEPTED if 200 <= status <= 299 else _Answer.REFUSED

    def _failed(self, why: str) -> _Answer:
        if not self._failing:
            self._failing = True
            self._log.warning(
                "Trace collector does not accept spans",
                event_name=EventName.COLLECTOR_FAILED,
                error=why,
                error_code=ErrorCode.COLLECTOR_UNAVAILABLE,
            )
        return _Answer.FAILED


async def _encoded(spans: Sequence[ReadableSpan]) -> bytes:
    """Encode in slices, so that the event loop is never blocked for more than a few ms."""
    request = ExportTraceServiceRequest()
    for start in range(0, len(spans), _ENCODED_AT_ONCE):
        request.MergeFrom(encode_spans(spans[start : start + _ENCODED_AT_ONCE]))
        await asyncio.sleep(0)
    body: bytes = request.SerializeToString()
    return body


def _traces_url(endpoint: str) -> str:
    url = httpx.URL(endpoint)
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError(f"{endpoint!r} is not an HTTP URL")
    return f"{endpoint.rstrip('/')}/v1/traces"


def _tls(url: str) -> ssl.SSLContext | bool:
    return httpx.create_ssl_context(trust_env=False) if url.startswith("https:") else False


async def _read_to_the_end(response: httpx.Response) -> None:
    """Drain the response so that the connection can be reused, up to a size limit."""
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > _ANSWER_BYTES_MAX:
            return
