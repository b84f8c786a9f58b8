"""A server for tests of http_request, and helpers that call the handler."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from holdfast.handlers import Context
from holdfast.handlers.builtin.http_request import (
    HttpRequest,
)
from holdfast.handlers.commit import Commit
from holdfast.handlers.time_limit import TimeLimit
from holdfast.instrumentation.attempt_span import AttemptSpan
from holdfast.model.claim import Grant
from holdfast.settings import Settings

TASK_ID = UUID("01890000-0000-7000-8000-000000000001")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Server:
    """The address of the receiver and the requests it received."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.release = threading.Event()


def receiver(server: Server) -> FastAPI:
    app = FastAPI()
    add_redirects(app)
    add_bodies(app)

    @app.middleware("http")
    async def remember(request: Request, call_next: Any) -> Any:
        body = await request.body()
        server.seen.append((request.method, request.url.path, dict(request.headers), body))
        return await call_next(request)

    @app.api_route("/answer/{status}", methods=["GET", "POST"])
    async def answer(status: int) -> Response:
        return Response("it went fine", status, media_type="text/plain")

    @app.get("/limited/{status}/{seconds}")
    async def limited(status: int, seconds: str) -> Response:
        return Response("busy", status, {"Retry-After": seconds})

    @app.get("/slow")
    async def slow() -> Response:
        await asyncio.to_thread(server.release.wait, 30)
        return Response("at last")

    return app


def add_redirects(app: FastAPI) -> None:
    @app.api_route("/redirect/{status}", methods=["GET", "POST", "PUT"])
    async def redirect(status: int, to: str) -> Response:
        return Response("moved", status, {"Location": to})

    @app.api_route("/loop", methods=["GET"])
    async def loop() -> Response:
        return Response(status_code=302, headers={"Location": "/loop"})

    @app.get("/cookie")
    async def cookie() -> Response:
        return Response("take this", headers={"Set-Cookie": "session=secret; Path=/"})


def add_bodies(app: FastAPI) -> None:
    @app.get("/bytes/{size}")
    async def many(size: int) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(size // 65536):
                yield b"x" * 65536

        return StreamingResponse(chunks(), media_type="text/plain")

    @app.get("/binary")
    async def binary() -> Response:
        return Response(b"a\0b\xff", media_type="application/octet-stream")

    @app.get("/latin")
    async def latin() -> Response:
        return Response("caf\u00e9".encode("latin-1"), headers={
            "content-type": "text/plain; charset=iso-8859-1"})  # fmt: skip


def granted(timeout_seconds: float = 30.0) -> Grant:
    return Grant(
        task_id=TASK_ID,
        epoch=3,
        attempt=2,
        name="http_request",
        queue="default",
        payload=b"{}",
        max_attempts=5,
        failures=1,
        timeout_seconds=timeout_seconds,
        traceparent=TRACEPARENT,
        claimed_at=datetime(2026, 1, 9, 10, tzinfo=UTC),
        queued_at=datetime(2026, 1, 9, 10, tzinfo=UTC),
        waited_seconds=0.01,
        age_seconds=0.01,
        quarantined=False,
    )


def context(timeout_seconds: float = 30.0, span: AttemptSpan | None = None) -> Context:
    loop = asyncio.get_running_loop()
    grant = granted(timeout_seconds)
    limit = TimeLimit(timeout_seconds, clock=loop.time, claimed=loop.time())
    limit.begin()
    return Context(grant, limit=limit, commit=Commit(grant, span))


@asynccontextmanager
async def handler(*allowed: str) -> AsyncIterator[HttpRequest]:
    made = HttpRequest(Settings(http_allowed_hosts=allowed))
    try:
        yield made
    finally:
        await made.close()


async def call(payload: dict[str, Any], *allowed: str, timeout_seconds: float = 30.0) -> Any:
    async with handler(*(allowed or ("127.0.0.1",))) as http:
        return await http.run(context(timeout_seconds), payload)


@contextmanager
def serving() -> Iterator[Server]:
    """Serve in a thread, so that the handler under test has the event loop to itself."""
    listening = socket.create_server(("127.0.0.1", 0))
    made = Server(listening.getsockname()[1])
    config = uvicorn.Config(receiver(made), log_level="warning", ws="none", lifespan="off")
    instance = uvicorn.Server(config)
    thread = threading.Thread(target=instance.run, kwargs={"sockets": [listening]})
    thread.start()
    yield made
    instance.should_exit = True
    thread.join()
    listening.close()
