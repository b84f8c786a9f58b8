"""Identifiers: UUIDv7 (RFC 9562), so that the primary key's index grows at one end."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_ENTROPY_BYTES = 10


def new_id() -> UUID:
    """Return a new UUIDv7. Its timestamp roughly orders listings; no decision depends on it."""
    return new_ids(1)[0]


def new_ids(count: int) -> list[UUID]:
    """Return ``count`` new UUIDv7s with one timestamp, made from one read of system entropy.

    Entropy is never buffered: after a fork, two processes would generate the same ids.
    """
    milliseconds = time.time_ns() // 1_000_000
    entropy = os.urandom(_ENTROPY_BYTES * count)
    return [
        _compose(milliseconds, int.from_bytes(entropy[start : start + _ENTROPY_BYTES]))
        for start in range(0, len(entropy), _ENTROPY_BYTES)
    ]


def id_bound(instant: datetime) -> UUID:
    """Return the smallest UUIDv7 of ``instant`` (timezone-aware)."""
    return _compose(max(0, (instant - _EPOCH) // _MILLISECOND), 0)


def _compose(milliseconds: int, entropy: int) -> UUID:
    value = (milliseconds & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76 | (entropy >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | entropy & ((1 << 62) - 1)
    return UUID(int=value)
