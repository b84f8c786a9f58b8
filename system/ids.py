"""Identifiers: UUIDv7 (RFC 9562), so that the primary key's index grows at one end."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def new_id() -> UUID:
    """A fresh UUIDv7. Its timestamp orders listings roughly; no decision rests on it."""
    milliseconds = time.time_ns() // 1_000_000
    return _compose(milliseconds, int.from_bytes(os.urandom(10)))


def id_bound(instant: datetime) -> UUID:
    """The smallest UUIDv7 of that instant (aware)."""
    return _compose(max(0, (instant - _EPOCH) // _MILLISECOND), 0)


def _compose(milliseconds: int, entropy: int) -> UUID:
    value = (milliseconds & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76 | (entropy >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | entropy & ((1 << 62) - 1)
    return UUID(int=value)
