"""Tracing of one process: contexts, spans recorded after they finished, spans around code.

Nothing is global: no provider is installed in the process. Sampling is decided at the root of a
trace and carried in the flags of its context.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from holdfast.telemetry import traceparent
from holdfast.telemetry.export import SpanExport
from holdfast.telemetry.logs import Logger
from holdfast.telemetry.metrics import Metrics

TRACE_RATIO = 0.01  # the default

_SCOPE = "holdfast"
_IDS = RandomIdGenerator()  # stateless: it draws from the module ``random``
_RANDOM = 1 << 56  # number of values of the random bits of a trace id (W3C)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Attributes = Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event within a span; ``at`` in nanoseconds since 1970."""

    name: str
    at: int
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FinishedSpan:
    """A span recorded as a whole after it ended. Times in nanoseconds since 1970.

    ``error``: the ``error.type`` of a failure. Messages are omitted: they may contain payloads.
    """

    name: str
    context: SpanContext
    parent: SpanContext | None
    start: int
    end: int
    kind: SpanKind = SpanKind.INTERNAL
    attributes: Attributes = field(default_factory=dict)
    links: Sequence[SpanContext] = ()
    events: Sequence[TimedEvent] = ()
    error: str | None = None


class Tracing:
    """Made by ``create_tracing``. ``recording``: whether spans are exported to a collector."""

    def __init__(self, ratio: float, export: SpanExport | None, resource: Resource) -> None:
        self.recording = export is not None
        self._export = export
        self._ratio = ratio
        self._resource = resource
        if export is not None:
            self._tracer = _tracer(export, resource)

    def start(self) -> None:
        """Start the export on the running loop."""
        if self._export is not None:
            self._export.start()

    async def aclose(self) -> None:
        """Export the queued spans within a bounded time."""
        if self._export is not None:
            await self._export.aclose()

    def wants(self, text: str | None) -> bool:
        """Whether this process records spans of that trace."""
        return self.recording and traceparent.is_sampled(text)

    def root(self) -> SpanContext:
        """Return the context of a new trace, sampled by the ratio."""
        return new_root(self._ratio)

    def new_traceparent(self) -> str:
        """Return the traceparent of a new trace, sampled by the ratio."""
        return new_traceparent(self._ratio)

    def sampled_root(self) -> SpanContext:
        """Return the context of a new trace that is always sampled."""
        return new_root(1.0)

    def child(self, parent: SpanContext) -> SpanContext:
        """Return the context of a new span below ``parent``."""
        return named_child(parent, _IDS.generate_span_id())

    def record(self, span: FinishedSpan) -> None:
        """Export a finished span; may be called from any thread.

        Builds what the SDK passes to exporters: the SDK's tracer does not accept ids that existed
        before the span, and takes 66 us instead of 4.
        """
        if self._export is None:
            return
        attributes, status = dict(span.attributes), Status()
        if span.error is not None:
            attributes["error.type"], status = span.error, Status(StatusCode.ERROR)
        self._export.on_end(
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

    @contextmanager
    def span(self, name: str, kind: SpanKind, attributes: Attributes) -> Iterator[trace.Span]:
        """Run a block within a new current span below the current one; on any thread.

        Exceptions are recorded by type only: messages may contain payloads.
        """
        with self._tracer.start_as_current_span(
            name,
            kind=kind,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", type(error).__qualname__)
                raise


def create_tracing(
    endpoint: str | None,
    ratio: float,
    metrics: Metrics,
    log: Logger,
    *,
    role: str,
    label: str,
    version: str,
    export_seconds: float = 1.0,
) -> Tracing:
    """Create the tracing of a process; without ``endpoint`` contexts exist but no spans.

    Raises:
        ValueError: the endpoint is not an HTTP URL.
    """
    export = None
    if endpoint is not None:
        export = SpanExport(endpoint, metrics, log, export_seconds=export_seconds)
    # Not Resource.create: its detectors run in threads.
    resource = Resource(
        {
            "service.name": f"holdfast-{role}",
            "service.instance.id": label,
            "service.version": version,
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": sdk_version,
        }
    )
    return Tracing(ratio, export, resource)


def attempt_span_id(task_id: UUID, epoch: int) -> int:
    """Derive the id of an attempt's span, so that any process can emit it without storing it."""
    digest = hashlib.sha256(task_id.bytes + epoch.to_bytes(4)).digest()
    return int.from_bytes(digest[:8]) or 1


def named_child(parent: SpanContext, span_id: int) -> SpanContext:
    """Return a context in the trace of ``parent`` with this span id."""
    return SpanContext(parent.trace_id, span_id, is_remote=False, trace_flags=parent.trace_flags)


def new_root(ratio: float) -> SpanContext:
    """Return a new root context, sampled by its trace id as OpenTelemetry's ratio sampler does."""
    trace_id, span_id, flags = _new_root(ratio)
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(flags))


def new_traceparent(ratio: float) -> str:
    """Return the traceparent of a new root without building a context, which submits need not."""
    return traceparent.compose(*_new_root(ratio))


def _new_root(ratio: float) -> tuple[int, int, int]:
    trace_id = _IDS.generate_trace_id()
    sampled = trace_id & (_RANDOM - 1) < ratio * _RANDOM
    flags = TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT
    return trace_id, _IDS.generate_span_id(), flags


def nanoseconds(instant: datetime) -> int:
    """Convert an aware datetime to nanoseconds since 1970 without rounding."""
    return (instant - _EPOCH) // _MICROSECOND * 1000


def _tracer(export: SpanExport, resource: Resource) -> trace.Tracer:
    provider = TracerProvider(
        sampler=ALWAYS_ON,  # callers have checked the sampled flag
        resource=resource,
        shutdown_on_exit=False,
        id_generator=_IDS,
        meter_provider=NoOpMeterProvider(),
    )
    provider.add_span_processor(export)
    return provider.get_tracer(_SCOPE)
