"""Every request is told, whatever becomes of it; and the last word on what nobody expected."""

from __future__ import annotations

import asyncio
import http
import traceback

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from system.api import problems
from system.api.services import SCOPE_KEY
from system.telling.requests import RequestInstrumentation, RequestTrace

_FRAMES_MAX = 20
_METHODS = frozenset(http.HTTPMethod)  # a client may send any other word


class Access:
    """The outermost ASGI middleware. Tells method, route and status: never payloads or keys."""

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
            self._note(request, scope, status, loop.time() - began)

    def _note(self, request: RequestTrace, scope: Scope, status: int, seconds: float) -> None:
        # The template, not the path: ids would make labels without bound.
        route = getattr(scope.get("route"), "path", None)
        method = scope["method"] if scope["method"] in _METHODS else None
        self._telemetry.answered(request, method, route, status, seconds)

    def _complain(self, scope: Scope, error: Exception) -> None:
        # Messages and local variables may hold payloads: only where it happened is told.
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES_MAX:]
        where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        self._telemetry.broke(scope["path"], error, where)
