"""One log line and one measurement per request; and the last word on what nobody expected."""

from __future__ import annotations

import asyncio
import http
import traceback

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from observability.metrics import Metrics
from system.api import problems

_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
_FRAMES_MAX = 20
_METHODS = frozenset(http.HTTPMethod)  # a client may send any other word


class Access:
    """The outermost ASGI middleware. Logs method, route and status: never payloads or keys."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: structlog.stdlib.BoundLogger) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as error:
            self._complain(scope, error)
            if status:
                raise
            problem = problems.from_error(error, reading=False)
            await problem.response(scope["path"])(scope, receive, watch)
        finally:
            self._note(scope, status, loop.time() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        # The template, not the path: ids would make labels without bound.
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.request_seconds.labels(method, route).observe(seconds)
        level = self._log.debug if scope["path"] in _PROBES and status < 400 else self._log.info
        level("request", method=method, route=route, status=status, seconds=round(seconds, 6))

    def _complain(self, scope: Scope, error: Exception) -> None:
        # Messages and local variables may hold payloads: only where it happened is told.
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES_MAX:]
        where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        self._log.error("bug", path=scope["path"], error=type(error).__name__, where=where)
