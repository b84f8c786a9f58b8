"""W3C trace context as text: how it lies in rows, hints and headers."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_SAMPLED_DIGITS = frozenset("13579bdf")  # the flags end in the bit that says "sampled"


def is_sampled(text: str | None) -> bool:
    """One look at the flags; of a text that is no traceparent it says nothing."""
    return text is not None and text[-1:] in _SAMPLED_DIGITS


def parse(text: str | None) -> trace.SpanContext | None:
    """The context that a traceparent names; None if it is not valid."""
    if not text:
        return None
    found = TraceContextTextMapPropagator().extract({"traceparent": text})
    context = trace.get_current_span(found).get_span_context()
    return context if context.is_valid else None


def write(context: trace.SpanContext) -> str:
    """The traceparent of a context, in its normal form."""
    return compose(context.trace_id, context.span_id, context.trace_flags)


def compose(trace_id: int, span_id: int, flags: int) -> str:
    """The traceparent of these ids and flags."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


def trace_id(text: str | None) -> str | None:
    """The trace's id, as log lines name it."""
    return text[3:35] if text else None
