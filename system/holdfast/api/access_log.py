"""Log and measure every request, and answer 500 to unexpected errors."""

from __future__ import annotations

import asyncio
import http
import traceback

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.api import problems
from holdfast.api.dependencies import SCOPE_KEY
from holdfast.instrumentation.requests import RequestInstrumentation, RequestTrace

_FRAMES_MAX = 20
_METHODS = frozenset(http.HTTPMethod)  # clients may send any other string


class AccessLog:
    """Outermost ASGI middleware. Records method, route and status, never payloads or keys."""

    def __init__(self, app: ASGIApp, instrumentation: RequestInstrumentation) -> None:
        self._app = app
        self._telemetry = instrumentation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        status = 0
        request = scope[SCOPE_KEY] = self._telemetry.began(scope)

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observe)
        except Exception as error:
            self._log_error(scope, error)
            if status:
                raise
            problem = problems.from_error(error, reading=False)
            await problem.response(scope["path"])(scope, receive, observe)
        finally:
            self._record(request, scope, status, loop.time() - began)

    def _record(self, request: RequestTrace, scope: Scope, status: int, seconds: float) -> None:
        # The template, not the path: ids would make the number of labels unbounded.
        route = getattr(scope.get("route"), "path", None)
        method = scope["method"] if scope["method"] in _METHODS else None
        self._telemetry.answered(request, method, route, status, seconds)

    def _log_error(self, scope: Scope, error: Exception) -> None:
        # Messages and local variables may hold payloads: only the location is logged.
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES_MAX:]
        where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        self._telemetry.crashed(scope["path"], error, where)
