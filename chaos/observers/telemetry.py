"""The trace settings of the roles of a run, and parsing of their traceparents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

# Trace every task and export soon, because a killed process loses the spans it has not sent. A
# scenario may override both (topology.settings).
EXPORT_SECONDS = 0.5
_SETTINGS: Mapping[str, Any] = MappingProxyType(
    {"trace_ratio": 1.0, "trace_export_seconds": EXPORT_SECONDS}
)

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def settings(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the declared settings, with defaults for tracing."""
    return {**_SETTINGS, **declared}


@dataclass(frozen=True, slots=True)
class Parent:
    """A parsed traceparent: the trace, and the parent span in it."""

    trace_id: str
    span_id: str
    sampled: bool


def parent(traceparent: str | None) -> Parent | None:
    """Parse a traceparent; None if it is missing or malformed."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None:
        return None
    return Parent(found[1], found[2], sampled=bool(int(found[3], 16) & 1))
