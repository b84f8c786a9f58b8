"""Traces of one process: spans recorded once they are over, and spans around code.

Nothing is global: no provider is set for the process. OpenTelemetry's SDK is loaded only if there
is a collector to export to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from holdfast.telemetry import traceparent
from holdfast.telemetry.trace_context import (
    Attributes,
    FinishedSpan,
    new_child,
    new_root,
    new_traceparent,
)

if TYPE_CHECKING:
    from holdfast.telemetry.export import SpanExport
    from holdfast.telemetry.logs import Logger
    from holdfast.telemetry.metrics import Metrics
    from holdfast.telemetry.otlp import SpanDestination


class Tracing:
    """Made by ``create_tracing``. ``recording``: whether spans are exported to a collector."""

    def __init__(self, ratio: float, export: SpanExport | None) -> None:
        self.recording = export is not None
        self._export = export
        self._ratio = ratio
        if export is not None:
            self._tracer = export.tracer()

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
        """The context of a span below ``parent``."""
        return new_child(parent)

    def record(self, span: FinishedSpan) -> None:
        """Record a finished span; may be called on any thread."""
        if self._export is not None:
            self._export.record(span)

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
    destination: SpanDestination | None,
    ratio: float,
    metrics: Metrics,
    log: Logger,
    *,
    role: str,
    label: str,
    version: str,
    export_seconds: float = 1.0,
) -> Tracing:
    """Create the tracing of a process; without ``destination`` contexts exist but no spans.

    Raises:
        ValueError: a certificate or key of ``destination`` cannot be read.
    """
    if destination is None:
        return Tracing(ratio, None)
    from holdfast.telemetry.export import SpanExport

    attributes = {
        "service.name": f"holdfast-{role}",
        "service.instance.id": label,
        "service.version": version,
    }
    export = SpanExport(destination, attributes, metrics, log, export_seconds=export_seconds)
    return Tracing(ratio, export)
