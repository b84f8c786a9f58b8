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
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from holdfast.telemetry.event_names import ErrorCode, EventName
from holdfast.telemetry.logs import Logger
from holdfast.telemetry.metrics import Metrics

QUEUE_MAX = 2048
BATCH_MAX = 256
_ANSWER_SECONDS = 2.0
_ANSWER_BYTES_MAX = 64 << 10  # a conforming response is empty or lists the rejected spans
_CLOSE_SECONDS = 2.0
_ENCODED_AT_ONCE = 32
_TRIES = 2
_HEADERS = {"Content-Type": "application/x-protobuf", "User-Agent": "holdfast"}


class _Answer(Enum):
    TAKEN = auto()
    REFUSED = auto()  # permanent: a resend cannot succeed
    TROUBLE = auto()


class SpanExport(SpanProcessor):
    """Accepts ended spans from any thread; sends them between ``start`` and ``aclose``."""

    def __init__(
        self,
        endpoint: str,
        metrics: Metrics,
        log: Logger,
        *,
        export_seconds: float,
    ) -> None:
        """Export to ``endpoint``, the collector's base URL, within ``export_seconds`` of a span.

        Raises:
            ValueError: ``endpoint`` is not an HTTP URL.
        """
        self._url = _traces_url(endpoint)
        self._metrics = metrics
        self._log = log
        self._export_seconds = export_seconds
        self._waiting: deque[ReadableSpan] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._in_trouble = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._client: httpx.AsyncClient | None = None

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
                if answer is not _Answer.TROUBLE:
                    result = "exported" if answer is _Answer.TAKEN else "refused"
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
            return self._trouble(f"{type(error).__name__} {error}".strip())
        if status >= 500 or status in {408, 429}:
            return self._trouble(f"HTTP status {status}")
        if self._in_trouble:
            self._in_trouble = False
            self._log.info(
                "Trace collector accepts spans again", event_name=EventName.COLLECTOR_RECOVERED
            )
        return _Answer.TAKEN if 200 <= status <= 299 else _Answer.REFUSED

    def _trouble(self, why: str) -> _Answer:
        if not self._in_trouble:
            self._in_trouble = True
            self._log.warning(
                "Trace collector does not accept spans",
                event_name=EventName.COLLECTOR_FAILED,
                error=why,
                error_code=ErrorCode.COLLECTOR_UNAVAILABLE,
            )
        return _Answer.TROUBLE


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
