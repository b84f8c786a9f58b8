"""Ask a role whether it is ready, in real time or in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

_SECONDS = 2.0


async def readiness(url: str) -> int | None:
    """Return the status of GET ``url``; None without a valid HTTP response."""
    where = urlsplit(url)
    request = f"GET {where.path} HTTP/1.1\r\nHost: role\r\nConnection: close\r\n\r\n"
    with contextlib.suppress(OSError, TimeoutError, ValueError, IndexError):
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            try:
                writer.write(request.encode())
                return int((await reader.readline()).split()[1])
            finally:
                writer.close()
    return None
