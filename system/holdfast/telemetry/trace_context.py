"""Contexts of spans (fresh, below a parent, derived from an attempt), and finished spans as values.

Needs OpenTelemetry's API only, so that applications can enqueue without its SDK. Whether a trace is
recorded is decided where it begins and stands in the flags of its context.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.util.types import AttributeValue

from holdfast.telemetry import traceparent

TRACE_RATIO = 0.01  # the default
_RANDOM = 1 << 56  # values of the random bits of a trace id (W3C)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Attributes = Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """Something at one instant of a span, in nanoseconds since 1970."""

    name: str
    at: int
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FinishedSpan:
    """A span that is over. Instants in nanoseconds since 1970.

    ``error``: the ``error.type`` of the failure; never its message, which may hold payload.
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


def attempt_span_id(task_id: UUID, epoch: int) -> int:
    """Derive the id of an attempt's span, so that it need not be stored."""
    digest = hashlib.sha256(task_id.bytes + epoch.to_bytes(4)).digest()
    return int.from_bytes(digest[:8]) or 1


def named_child(parent: SpanContext, span_id: int) -> SpanContext:
    """Return the context with this span id below ``parent``."""
    return SpanContext(parent.trace_id, span_id, is_remote=False, trace_flags=parent.trace_flags)


def new_child(parent: SpanContext) -> SpanContext:
    """Return a fresh context below ``parent``."""
    return named_child(parent, _random_id(64))


def new_root(ratio: float) -> SpanContext:
    """Return a fresh context, sampled by its trace id as OpenTelemetry's own sampler does."""
    trace_id, span_id, flags = _new_root(ratio)
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(flags))


def new_traceparent(ratio: float) -> str:
    """Return the text of a fresh context; skips the object, since tasks come by the thousand."""
    return traceparent.compose(*_new_root(ratio))


def nanoseconds(instant: datetime) -> int:
    """Return an aware instant in nanoseconds since 1970, exactly."""
    return (instant - _EPOCH) // _MICROSECOND * 1000


def _new_root(ratio: float) -> tuple[int, int, int]:
    trace_id = _random_id(128)
    sampled = trace_id & (_RANDOM - 1) < ratio * _RANDOM
    flags = TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT
    return trace_id, _random_id(64), flags


def _random_id(bits: int) -> int:
    return random.getrandbits(bits) or 1  # zero is not valid
