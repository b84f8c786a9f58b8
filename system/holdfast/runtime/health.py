"""The HTTP server of a scheduler or worker: /healthz, /readyz, /metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from holdfast.errors import Misconfigured
from holdfast.runtime.bounded_http import BoundedProtocol
from holdfast.runtime.host_guard import HostGuard, is_loopback
from holdfast.runtime.refusals import RefusalLog
from holdfast.settings import CONNECTIONS_MAX, Settings
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.logs import Logger, create_logger
from holdfast.telemetry.metrics import Metrics

# Longer than clients keep an idle connection (httpx: 5 s, load balancers: 60 s): a request sent
# while the server closes the connection would be lost.
_KEEP_ALIVE_SECONDS = 75
# Answers hold payloads: no cache keeps them, and no browser guesses another type for them.
_HEADERS = [("cache-control", "no-store"), ("x-content-type-options", "nosniff")]


class UvicornServer(uvicorn.Server):
    """uvicorn without its signal handlers: the role handles signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers."""
        yield

    @property
    def port(self) -> int:
        """Return the bound port; the server must have started."""
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port


def create_health(stalled: Callable[[], dict[str, str]], metrics: Metrics) -> Starlette:
    """Create the app; /readyz answers 503 while ``stalled()`` names loops without progress."""

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


def require_safe_health(settings: Settings) -> None:
    """Refuse to serve /metrics, which needs no key, to the network.

    Raises:
        Misconfigured: ``health_host`` is not a loopback address, and ``api_without_keys`` is not
            set.
    """
    if not is_loopback(settings.health_host) and not settings.api_without_keys:
        raise Misconfigured(
            f"HOLDFAST_HEALTH_HOST={settings.health_host} is reachable from the network, and its "
            "/metrics needs no key: listen on 127.0.0.1, or set HOLDFAST_API_WITHOUT_KEYS=true "
            "where the network restricts access"
        )


async def start_health(
    settings: Settings, stalled: Callable[[], dict[str, str]], metrics: Metrics, log: Logger
) -> tuple[UvicornServer, asyncio.Task[None]]:
    """Serve the health paths and /metrics of a scheduler or worker; return when the port is bound.

    On loopback, no web page of another site reads /metrics through its visitor's browser.

    Raises:
        OSError: the address cannot be bound.
    """
    app = create_health(stalled, metrics)
    guarded = HostGuard(app, settings.api_hosts) if is_loopback(settings.health_host) else app
    server, task = await start_server(
        guarded,
        settings.health_host,
        settings.health_port,
        connections_max=settings.connections_max,
        log=log,
    )
    log.info(
        "Health server started",
        event_name=EventName.HEALTH_STARTED,
        url=f"http://{settings.health_host}:{server.port}/readyz",
    )
    return server, task


async def start_server(
    app: object,
    host: str,
    port: int,
    *,
    connections_max: int = CONNECTIONS_MAX,
    log: Logger | None = None,
) -> tuple[UvicornServer, asyncio.Task[None]]:
    """Serve ``app`` in a new task; return when the port is bound.

    ``log`` gets refused requests.

    Raises:
        OSError: the address cannot be bound.
    """
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=host,
        port=port,
        http=partial(  # type: ignore[arg-type]
            BoundedProtocol,
            connections_max=connections_max,
            refusal_log=RefusalLog(log or create_logger()),
        ),
        ws="none",
        headers=_HEADERS,
        server_header=False,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=5,
    )
    server = UvicornServer(config)
    task = asyncio.create_task(_serve(server, f"{host}:{port}"))
    while not server.started:  # uvicorn offers no event to wait for
        if task.done():
            await task
        await asyncio.sleep(0.01)
    return server, task


async def _serve(server: UvicornServer, address: str) -> None:
    try:
        await server.serve()
    except SystemExit as error:  # uvicorn exits if it cannot bind
        raise OSError(f"cannot listen on {address}: is the port in use?") from error


async def stop_server(server: UvicornServer, task: asyncio.Task[None]) -> None:
    """Stop the server after its current requests."""
    server.should_exit = True
    await task
