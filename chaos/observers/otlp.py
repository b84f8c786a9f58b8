"""Spans of a run: trace settings of the roles, traceparents, and OTLP.

OTLP is protobuf with Unix nanoseconds; the records of a history have arena seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from chaos.history.spans import Span, SpanEvent, SpanLink

_Role = Literal["internal", "server", "client", "producer", "consumer"]
_Status = Literal["unset", "ok", "error"]
_ROLES: tuple[_Role, ...] = ("internal", "internal", "server", "client", "producer", "consumer")
_STATUSES: tuple[_Status, ...] = ("unset", "ok", "error")
_SCALARS = ("string_value", "bool_value", "int_value", "double_value")
# Trace every task and export soon, because a killed process loses the spans it has not sent. A
# scenario may override both (topology.settings).
EXPORT_SECONDS = 0.5
_TRACE_SETTINGS: Mapping[str, Any] = MappingProxyType(
    {"trace_ratio": 1.0, "trace_export_seconds": EXPORT_SECONDS}
)
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NANO = 1_000_000_000
# Attributes with the same value for all spans of a name; the history omits them.
_PLAIN = ("messaging.", "network.", "server.", "client.", "url.", "user_agent.")


def trace_settings(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the declared settings, with defaults for tracing."""
    return {**_TRACE_SETTINGS, **declared}


@dataclass(frozen=True, slots=True)
class TraceParent:
    """A parsed traceparent: the trace, and the parent span in it."""

    trace_id: str
    span_id: str
    sampled: bool


def parse_traceparent(traceparent: str | None) -> TraceParent | None:
    """Parse a traceparent; None if it is missing or malformed."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None:
        return None
    return TraceParent(found[1], found[2], sampled=bool(int(found[3], 16) & 1))


def decode(exports: Iterable[bytes], zero: float) -> Iterator[Span]:
    """Yield the spans of export requests in order; ``zero``: Unix time of arena second 0.

    A batch that was sent again, because its answer was lost, counts once.
    """
    seen: set[bytes] = set()
    for export in exports:
        for group in ExportTraceServiceRequest.FromString(export).resource_spans:
            about = _attributes(group.resource.attributes)
            for scope in group.scope_spans:
                for span in scope.spans:
                    text = span.SerializeToString(deterministic=True)
                    if text not in seen:
                        seen.add(text)
                        yield _record(span, about, zero)


def encode(spans: Sequence[Span], zero: float, about: dict[str, str]) -> bytes:
    """Encode these spans, whose resource is ``about``, as one export request."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.extend(_pairs(about))
    group.scope_spans.add().spans.extend(_message(span, zero) for span in spans)
    export: bytes = request.SerializeToString(deterministic=True)
    return export


def _record(span: trace_pb2.Span, about: dict[str, Any], zero: float) -> Span:
    attributes = _attributes(span.attributes)
    return Span(
        name=span.name,
        role=_ROLES[span.kind],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex() or None,
        service=str(about.get("service.name", "")),
        instance=str(about.get("service.instance.id", "")),
        start=_seconds(span.start_time_unix_nano, zero),
        end=_seconds(span.end_time_unix_nano, zero),
        status=_STATUSES[span.status.code],
        attributes={k: v for k, v in attributes.items() if not k.startswith(_PLAIN)},
        links=tuple(
            SpanLink(trace_id=link.trace_id.hex(), span_id=link.span_id.hex())
            for link in span.links
        ),
        events=tuple(
            SpanEvent(
                name=event.name,
                at=_seconds(event.time_unix_nano, zero),
                attributes=_attributes(event.attributes),
            )
            for event in span.events
        ),
    )


def _message(span: Span, zero: float) -> trace_pb2.Span:
    message = trace_pb2.Span(
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Value(f"SPAN_KIND_{span.role.upper()}"),
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_span_id or ""),
        start_time_unix_nano=_nanoseconds(span.start, zero),
        end_time_unix_nano=_nanoseconds(span.end, zero),
        attributes=_pairs(span.attributes),
        status=trace_pb2.Status(
            code=trace_pb2.Status.StatusCode.Value(f"STATUS_CODE_{span.status.upper()}")
        ),
    )
    for link in span.links:
        message.links.add(
            trace_id=bytes.fromhex(link.trace_id), span_id=bytes.fromhex(link.span_id)
        )
    for event in span.events:
        message.events.add(
            name=event.name,
            time_unix_nano=_nanoseconds(event.at, zero),
            attributes=_pairs(event.attributes),
        )
    return message


def _seconds(nanoseconds: int, zero: float) -> float:
    return round(nanoseconds / _NANO - zero, 6)


def _nanoseconds(seconds: float, zero: float) -> int:
    return round((seconds + zero) * _NANO)


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, which) if which in _SCALARS else None


def _pairs(attributes: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any(value)) for key, value in attributes.items()]


def _any(value: Any) -> AnyValue:
    found = AnyValue()
    if isinstance(value, bool):
        found.bool_value = value
    elif isinstance(value, int):
        found.int_value = value
    elif isinstance(value, float):
        found.double_value = value
    elif isinstance(value, list | tuple):
        found.array_value.values.extend(_any(each) for each in value)
    else:
        found.string_value = str(value)
    return found
