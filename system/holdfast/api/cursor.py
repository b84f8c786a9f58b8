"""Opaque cursors: a position in a listing, bound to the filters of that listing."""

from __future__ import annotations

import base64
import binascii
import hashlib
from uuid import UUID

from holdfast.model.task import TaskFilter

_VERSION = b"\x01"
_DIGEST_BYTES = 8


class InvalidCursor(ValueError):
    """Not a cursor of this API, or one of a listing with different filters."""


def encode(task_filter: TaskFilter, last: UUID) -> str:
    """Return the cursor of the page that follows ``last``: 34 URL-safe characters."""
    raw = _VERSION + _digest(task_filter) + last.bytes
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(task_filter: TaskFilter, cursor: str) -> UUID:
    """Return the id that the page follows.

    Raises:
        InvalidCursor: the message says why.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise InvalidCursor("the cursor was not issued by GET /tasks/") from None
    head = len(_VERSION) + _DIGEST_BYTES
    if len(raw) != head + 16 or not raw.startswith(_VERSION):
        raise InvalidCursor("the cursor was not issued by GET /tasks/")
    if raw[len(_VERSION) : head] != _digest(task_filter):
        raise InvalidCursor("the cursor belongs to a listing with different filters")
    return UUID(bytes=raw[head:])


def _digest(task_filter: TaskFilter) -> bytes:
    states = tuple(sorted(set(task_filter.states)))
    instants = (
        task_filter.created_after,
        task_filter.created_before,
        task_filter.run_after,
        task_filter.run_before,
    )
    parts = (states, task_filter.name, task_filter.queue)
    canonical = repr((*parts, *(instant and instant.timestamp() for instant in instants)))
    return hashlib.sha256(canonical.encode()).digest()[:_DIGEST_BYTES]
