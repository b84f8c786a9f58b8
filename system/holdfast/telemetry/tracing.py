"""Traces of one process: contexts, finished spans that are told afterwards, spans around code.

Nothing is global: no provider is set for the process, ids and time are those that the SDK uses.
Whether a trace is recorded is decided where it begins and stands in the flags of its context.
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

TRACE_RATIO = 0.01  # where nobody says more

_SCOPE = "holdfast"
_IDS = RandomIdGenerator()  # it keeps nothing: the module ``random`` does
_RANDOM = 1 << 56  # so many values have the random bits of a trace's id (W3C)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Attributes = Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class Happening:
    """Something at one instant of a span, in nanoseconds since 1970."""

    name: str
    at: int
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finished:
    """A span that is over: told as a whole. Instants in nanoseconds since 1970.

    ``error``: the ``error.type`` of what failed; its message may hold payload and is not told.
    """

    name: str
    context: SpanContext
    parent: SpanContext | None
    start: int
    end: int
    kind: SpanKind = SpanKind.INTERNAL
    attributes: Attributes = field(default_factory=dict)
    links: Sequence[SpanContext] = ()
    events: Sequence[Happening] = ()
    error: str | None = None


class Tracing:
    """Made by ``create_tracing``. ``recording``: whether there is a collector to send spans to."""

    def __init__(self, ratio: float, export: SpanExport | None, resource: Resource) -> None:
        self.recording = export is not None
        self._export = export
        self._ratio = ratio
        self._resource = resource
        if export is not None:
            self._tracer = _tracer(export, resource)

    def start(self) -> None:
        """Begins to export, on the running loop."""
        if self._export is not None:
            self._export.start()

    async def aclose(self) -> None:
        """Exports what is there, within a bounded time."""
        if self._export is not None:
            await self._export.aclose()

    def wants(self, text: str | None) -> bool:
        """Whether spans of the trace of that traceparent are recorded here."""
        return self.recording and traceparent.is_sampled(text)

    def root(self) -> SpanContext:
        """The context of a span that begins a trace; the ratio decides whether it is sampled."""
        return new_root(self._ratio)

    def new_traceparent(self) -> str:
        """The text of ``root()`` without its context."""
        return new_traceparent(self._ratio)

    def sampled_root(self) -> SpanContext:
        """The same, whatever the ratio."""
        return new_root(1.0)

    def child(self, parent: SpanContext) -> SpanContext:
        """The context of a span below ``parent``."""
        return named_child(parent, _IDS.generate_span_id())

    def record(self, span: Finished) -> None:
        """Tells a finished span; may be called on any thread.

        As what the SDK hands to its exporters: its tracer neither takes ids that were there before
        the span, nor is it cheap (66 us instead of 4).
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
        """A span around a block, below the current one and itself the current one meanwhile.

        On any thread. An exception is told by its type only: its message may hold payload.
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
    """``endpoint`` None: contexts are made, spans are not recorded.

    Raises:
        ValueError: the endpoint is no URL.
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
    """The id of an attempt's span: whoever ends the attempt knows it, nobody stores it."""
    digest = hashlib.sha256(task_id.bytes + epoch.to_bytes(4)).digest()
    return int.from_bytes(digest[:8]) or 1


def named_child(parent: SpanContext, span_id: int) -> SpanContext:
    """The context below ``parent`` that has this id."""
    return SpanContext(parent.trace_id, span_id, is_remote=False, trace_flags=parent.trace_flags)


def new_root(ratio: float) -> SpanContext:
    """A fresh context. Its id decides whether it is sampled, as in OpenTelemetry's own sampler."""
    trace_id, span_id, flags = _new_root(ratio)
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(flags))


def new_traceparent(ratio: float) -> str:
    """That of a fresh context: the text alone, for tasks come by the thousand."""
    return traceparent.compose(*_new_root(ratio))


def _new_root(ratio: float) -> tuple[int, int, int]:
    trace_id = _IDS.generate_trace_id()
    sampled = trace_id & (_RANDOM - 1) < ratio * _RANDOM
    flags = TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT
    return trace_id, _IDS.generate_span_id(), flags


def nanoseconds(instant: datetime) -> int:
    """An aware instant as spans have it, exactly."""
    return (instant - _EPOCH) // _MICROSECOND * 1000


def _tracer(export: SpanExport, resource: Resource) -> trace.Tracer:
    provider = TracerProvider(
        sampler=ALWAYS_ON,  # who asks for a span has looked at the flags
        resource=resource,
        shutdown_on_exit=False,
        id_generator=_IDS,
        meter_provider=NoOpMeterProvider(),
    )
    provider.add_span_processor(export)
    return provider.get_tracer(_SCOPE)
