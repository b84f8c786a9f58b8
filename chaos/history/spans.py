"""Defines the record of a span, with its links and events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

# A record has exactly its fields.
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanLink:
    """A reference to another span; ids are in hex."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanEvent:
    """An instant within a span."""

    name: str
    at: float
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span that the collector received, or one of the harness (service ``holdfast-chaos``).

    ``start`` and ``end`` are arena seconds by the wall clock of the process that made the span, so
    they are wrong for a process with a skewed clock. ``role``: OpenTelemetry's span kind.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["span"] = "span"
    name: str
    role: Literal["internal", "server", "client", "producer", "consumer"]
    trace_id: str
    span_id: str
    parent_span_id: str | None
    service: str
    instance: str
    start: float
    end: float
    status: Literal["unset", "ok", "error"]
    attributes: dict[str, Any] = field(default_factory=dict)
    links: tuple[SpanLink, ...] = ()
    events: tuple[SpanEvent, ...] = ()
