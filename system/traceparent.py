"""W3C trace context of a task: kept from the caller, or begun here."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator


def kept_or_new(incoming: str | None) -> str:
    """``incoming`` in its normal form if it is a valid traceparent, else a fresh one."""
    propagator = TraceContextTextMapPropagator()
    context = propagator.extract({"traceparent": incoming or ""})
    if not trace.get_current_span(context).get_span_context().is_valid:
        ids = RandomIdGenerator()
        fresh = trace.SpanContext(
            ids.generate_trace_id(),
            ids.generate_span_id(),
            is_remote=False,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
        )
        context = trace.set_span_in_context(trace.NonRecordingSpan(fresh), context)
    carrier: dict[str, str] = {}
    propagator.inject(carrier, context)
    return carrier["traceparent"]
