"""Serve a receiver of the arenas in real time in a process of its own."""

from __future__ import annotations

import socket
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

_BACKLOG = 512


def serve(app: Starlette, port: int, port_file: Path | None, *, host: str = "127.0.0.1") -> None:
    """Serve until SIGTERM. ``port`` 0 takes a free one, which is written to ``port_file``."""
    with socket.create_server((host, port), backlog=_BACKLOG) as listener:
        if port_file is not None:
            # Renamed into place, so that readers never see a partial file.
            draft = port_file.with_suffix(".draft")
            draft.write_text(str(listener.getsockname()[1]), encoding="ascii")
            draft.rename(port_file)
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])


async def ignore_disconnect(_request: Request, _error: Exception) -> Response:
    """Handle a client's disconnect during its request without logging an error."""
    return Response(status_code=400)
