"""JSON values: when two are equal, and the digest by which a handler testifies its payload.

A stored number keeps its value, not its notation: ``1e2`` is read back as ``100``.
"""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Any

_DIGITS = 16


def equal(one: Any, other: Any) -> bool:
    """Return whether two JSON values are the same; ``true`` is not 1, but 1 is 1.0."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other
    return type(one) is type(other) and bool(one == other)


def digest(payload: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of a payload's canonical JSON, as stored."""
    text = json.dumps(
        _as_stored(payload), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _as_stored(value: Any) -> Any:
    """Write large whole numbers without an exponent, and zero without a sign."""
    if isinstance(value, dict):
        return {key: _as_stored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_stored(item) for item in value]
    if isinstance(value, float):
        text = repr(value)
        return int(Decimal(text)) if "e+" in text else value or 0.0
    return value
