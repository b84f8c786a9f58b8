"""Opaque cursors: a position in a listing, bound to its filters or its task."""

from __future__ import annotations

import base64
import binascii
import hashlib
from uuid import UUID

from holdfast.model.task import TaskFilter

_VERSION = b"\x01"
_DIGEST_BYTES = 8
_SEQ_BYTES = 4  # ``seq`` is an int4


class InvalidCursor(ValueError):
    """Not a cursor of this API, or one of a listing with different filters or of another task."""


def encode(task_filter: TaskFilter, last: UUID) -> str:
    """Return the cursor of the page that follows ``last``: 34 URL-safe characters."""
    return _encode(_digest(task_filter), last.bytes)


def decode(task_filter: TaskFilter, cursor: str) -> UUID:
    """Return the id that the page follows.

    Raises:
        InvalidCursor: the message says why.
    """
    digest, position = _decode(cursor, 16, "GET /tasks/")
    if digest != _digest(task_filter):
        raise InvalidCursor("the cursor belongs to a listing with different filters")
    return UUID(bytes=position)


def encode_events(task_id: UUID, last: int) -> str:
    """Return the cursor of the page of a task's events that follows the event ``last``."""
    return _encode(_task_digest(task_id), last.to_bytes(_SEQ_BYTES))


def decode_events(task_id: UUID, cursor: str) -> int:
    """Return the ``seq`` of the event that the page follows.

    Raises:
        InvalidCursor: the message says why.
    """
    digest, position = _decode(cursor, _SEQ_BYTES, "GET /tasks/{id}/events")
    if digest != _task_digest(task_id):
        raise InvalidCursor("the cursor belongs to the events of another task")
    return int.from_bytes(position)


def _encode(digest: bytes, position: bytes) -> str:
    return base64.urlsafe_b64encode(_VERSION + digest + position).rstrip(b"=").decode()


def _decode(cursor: str, size: int, source: str) -> tuple[bytes, bytes]:
    """Return the digest and the position, of ``size`` bytes, of a cursor that ``source`` issued."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise InvalidCursor(f"the cursor was not issued by {source}") from None
    head = len(_VERSION) + _DIGEST_BYTES
    if len(raw) != head + size or not raw.startswith(_VERSION):
        raise InvalidCursor(f"the cursor was not issued by {source}")
    return raw[len(_VERSION) : head], raw[head:]


def _task_digest(task_id: UUID) -> bytes:
    return hashlib.sha256(task_id.bytes).digest()[:_DIGEST_BYTES]


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
