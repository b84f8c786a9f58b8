"""Receive JSON bodies: of limited size each, and of limited size together.

FastAPI's own ``max_body_size`` counts streamed bytes too, but answers in plain text. FastAPI would
also keep the body, parsed, until the request is answered.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import Request
from starlette.requests import ClientDisconnect

from holdfast.api import problems
from holdfast.api.problems import Fault, Problem
from holdfast.settings import Settings

_CHARSET = re.compile(r""";\s*charset\*?\s*=\s*"?([^";\s]*)""", re.IGNORECASE)
_HELD_BYTES_MAX = 32 << 20


class Bodies:
    """The bodies that one process is receiving or has not validated yet."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held_bytes = 0

    def receive_task(self, request: Request) -> AbstractAsyncContextManager[bytes]:
        """Receive the body of a single task."""
        return self._receive(request, self._settings.body_bytes_max)

    def receive_batch(self, request: Request) -> AbstractAsyncContextManager[bytes]:
        """Receive the body of a batch."""
        return self._receive(request, self._settings.batch_bytes_max)

    @asynccontextmanager
    async def _receive(self, request: Request, bytes_max: int) -> AsyncIterator[bytes]:
        """Yield the whole body, which counts as held until the block ends.

        Raises:
            Problem: 413 once the limit is exceeded, whether or not Content-Length was right; 415;
                422 if there is none; 503 if too much is held.
        """
        _check_headers(request, bytes_max)
        size = 0
        chunks: list[bytes] = []
        try:
            async for chunk in request.stream():
                size += len(chunk)
                self._held_bytes += len(chunk)
                if size > bytes_max:
                    raise _too_large(bytes_max)
                if self._held_bytes > _HELD_BYTES_MAX:
                    detail = f"Requests of {self._held_bytes >> 20} MiB are being received already."
                    raise Problem(problems.OVERLOADED, detail)
                chunks.append(chunk)
            if not size:
                fault = Fault(detail="a JSON object is required", pointer="")
                raise Problem(problems.INVALID, "The body is empty.", faults=[fault])
            yield _joined(chunks)
        except ClientDisconnect as error:
            raise Problem(problems.MALFORMED, "The connection ended before the body.") from error
        finally:
            self._held_bytes -= size


def _joined(chunks: list[bytes]) -> bytes:
    body = b"".join(chunks)
    chunks.clear()
    return body


def _check_headers(request: Request, bytes_max: int) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        found = f"not {kind[:100]}" if kind else "but is missing"
        raise Problem(problems.MEDIA, f"Content-Type must be application/json, {found}.")
    _check_encoding(request)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > bytes_max:
        raise _too_large(bytes_max)


def _check_encoding(request: Request) -> None:
    """Refuse to read the bytes as something else than the client says that they are."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in {"", "identity"}:
        detail = f"Content-Encoding must be absent, not {coding[:100]}."
        raise Problem(problems.MEDIA, detail, headers={"Accept-Encoding": "identity"})
    for charset in _CHARSET.findall(request.headers["content-type"]):
        if charset.strip("'").lower() not in {"utf-8", "utf8"}:
            raise Problem(problems.MEDIA, f"The charset must be utf-8, not {charset[:100]}.")


def _too_large(bytes_max: int) -> Problem:
    # No "Connection: close": the kernel would reset a connection with unread data, and the
    # client would not see this response. The server discards the rest of the body.
    return Problem(problems.TOO_LARGE, f"The body exceeds {bytes_max} bytes.")
