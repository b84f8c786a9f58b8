"""The small HTTP server beside a scheduler or worker: /healthz, /readyz, /metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from holdfast.telemetry.metrics import Metrics

# Longer than clients keep an idle connection (httpx: 5 s, load balancers: 60 s). Where both ends
# give it up at the same instant, the next request is lost in between.
_KEEP_ALIVE_SECONDS = 75


class UvicornServer(uvicorn.Server):
    """uvicorn without its signal handlers: the role decides what a signal means."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield

    @property
    def port(self) -> int:
        """The port that is really bound, once started."""
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port


def create_health(stalled: Callable[[], dict[str, str]], metrics: Metrics) -> Starlette:
    """``stalled()`` names what makes no progress; /readyz is 503 while that is not empty."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        reasons = stalled()
        if reasons:
            return JSONResponse({"status": "not ready", "stalled": reasons}, status_code=503)
        return JSONResponse({"status": "ready"})

    async def scrape(request: Request) -> Response:
        text, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(text, media_type=content_type)

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", scrape),
        ]
    )


async def start_server(
    app: object, host: str, port: int
) -> tuple[UvicornServer, asyncio.Task[None]]:
    """Serves ``app`` in a task of its own; returns when the port is bound.

    Raises:
        OSError: the address cannot be bound.
    """
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=5,
    )
    server = UvicornServer(config)
    task = asyncio.create_task(_serve(server, f"{host}:{port}"))
    while not server.started:  # uvicorn has nothing to wait for
        if task.done():
            await task
        await asyncio.sleep(0.01)
    return server, task


async def _serve(server: UvicornServer, address: str) -> None:
    try:
        await server.serve()
    except SystemExit as error:  # uvicorn's way to say that it cannot bind
        raise OSError(f"cannot listen on {address}: is the port in use?") from error


async def stop_server(server: UvicornServer, task: asyncio.Task[None]) -> None:
    """Ends the server after the requests under way."""
    server.should_exit = True
    await task
