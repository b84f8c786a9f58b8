"""How the roles of a run are told to trace, and what the judge may expect of that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

# Every task is traced, and exported soon: what a killed process had not sent yet is lost. A
# scenario may say otherwise (topology.settings).
EXPORT_SECONDS = 0.5
_SETTINGS: Mapping[str, Any] = MappingProxyType(
    {"trace_ratio": 1.0, "trace_export_seconds": EXPORT_SECONDS}
)

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def settings(declared: Mapping[str, Any]) -> dict[str, Any]:
    """What a scenario declares, and how to trace where it does not say."""
    return {**_SETTINGS, **declared}


@dataclass(frozen=True, slots=True)
class Parent:
    """What a traceparent says: the trace, and the span in it that others are children of."""

    trace_id: str
    span_id: str
    sampled: bool


def parent(traceparent: str | None) -> Parent | None:
    """None: there is none, or it cannot be read."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None:
        return None
    return Parent(found[1], found[2], sampled=bool(int(found[3], 16) & 1))
