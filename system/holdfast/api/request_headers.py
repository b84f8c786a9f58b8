"""Middleware for what the framework leaves open: repeated headers, and HEAD."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.api.problems import Fault, Problem
from holdfast.runtime import refusals

_SINGLE = (
    *("Host", "Authorization", "Content-Type", "Content-Encoding", "Idempotency-Key"),
    "Origin",
)


class SingleHeaders:
    """ASGI middleware that answers 400 to a header with two values where only one can count.

    A proxy and the API could otherwise each follow another one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            for name in _SINGLE:
                if len(set(headers.getlist(name))) > 1:
                    await _refusal(name).response(scope["path"])(scope, receive, send)
                    return
        await self._app(scope, receive, send)


class HeadAsGet:
    """ASGI middleware that answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            scope["method"] = "HEAD"  # the server reads it when it writes the answer
            await send({**message, "body": b""} if "body" in message else message)

        # In place: the middleware around this one reads the route that is stored in the scope.
        scope["method"] = "GET"
        try:
            await self._app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"


def _refusal(name: str) -> Problem:
    detail = f"The header {name} has two different values"
    return Problem(
        refusals.MALFORMED_REQUEST, f"{detail}.", faults=[Fault(detail=detail, header=name)]
    )
