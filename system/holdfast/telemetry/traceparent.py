"""W3C trace context as text, as stored in rows, hints and headers."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_SAMPLED_DIGITS = frozenset("13579bdf")  # the lowest bit of the flags is "sampled"


def is_sampled(text: str | None) -> bool:
    """Whether the sampled flag is set; the result is meaningless for an invalid traceparent."""
    return text is not None and text[-1:] in _SAMPLED_DIGITS


def parse(text: str | None) -> trace.SpanContext | None:
    """Return the context of a traceparent, None if it is invalid."""
    if not text:
        return None
    found = TraceContextTextMapPropagator().extract({"traceparent": text})
    context = trace.get_current_span(found).get_span_context()
    return context if context.is_valid else None


def write(context: trace.SpanContext) -> str:
    """Return the traceparent of a context in canonical form."""
    return compose(context.trace_id, context.span_id, context.trace_flags)


def compose(trace_id: int, span_id: int, flags: int) -> str:
    """Return the traceparent of these ids and flags."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


def trace_id(text: str | None) -> str | None:
    """Return the hexadecimal trace id, as in log lines."""
    return text[3:35] if text else None
