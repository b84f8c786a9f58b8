"""Build the API application. Everything it uses is created and closed by its lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline

from holdfast.api import cancel_retry, openapi, probes, problems, read, submit
from holdfast.api.access_log import AccessLog
from holdfast.api.auth import BearerAuth, require_nonempty_keys
from holdfast.api.body import Bodies
from holdfast.api.coalescer import Coalescer
from holdfast.api.dependencies import Services
from holdfast.api.readiness import Readiness
from holdfast.api.request_headers import HeadAsGet, SingleHeaders
from holdfast.api.validation import RequestValidator
from holdfast.api.wakeup import Wakeup
from holdfast.instrumentation.requests import RequestInstrumentation
from holdfast.instrumentation.tasks import TaskInstrumentation
from holdfast.instrumentation.telemetry import Telemetry, create_telemetry
from holdfast.queue.hints import HintQueue
from holdfast.runtime.host_guard import HostGuard
from holdfast.runtime.loop_lag import LoopLag
from holdfast.runtime.supervision import LoopSupervisor
from holdfast.settings import Settings
from holdfast.store.store import Store

_REDIS_CONNECTIONS = 2
_TAGS = {"tasks": (submit, read, cancel_retry), "probes": (probes,)}


def create_api(settings: Settings, store: Store | None = None) -> FastAPI:
    """Return the ASGI application. Its lifespan opens and closes a Store and a HintQueue.

    A ``store`` passed in is used instead and stays open.

    Raises:
        Misconfigured: an API key is empty.
    """
    require_nonempty_keys(settings)
    telemetry = create_telemetry(settings, "api")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        queue = HintQueue(settings, connections=_REDIS_CONNECTIONS)
        name, size = f"holdfast-api-{settings.label}", settings.api_connections
        used = store or Store(settings, connections=size, application_name=name)
        actor = f"api:{settings.label}"
        services = Services(
            store=used,
            actor=actor,
            bodies=Bodies(settings),
            validator=RequestValidator(settings, used),
            coalescer=Coalescer(used.submit, actor, settings.submit_timeout_seconds),
            wakeup=Wakeup(queue.poke),
            readiness=Readiness(settings, used),
            telemetry=telemetry,
            instrumentation=TaskInstrumentation(telemetry),
        )
        app.state.services = services
        telemetry.tracing.start()
        telemetry.metrics.watch_pool("api", used.connections_used, settings.api_connections)
        loops = LoopSupervisor(telemetry.log, telemetry.metrics)
        LoopLag(loops, telemetry.metrics)
        looping = asyncio.create_task(loops.run())
        try:
            yield
        finally:
            loops.stop()
            await looping
            await services.coalescer.close()
            await services.wakeup.close()
            await queue.close()
            if store is None:
                await used.close()
            await telemetry.tracing.aclose()

    app = FastAPIOffline(  # its /docs needs no CDN
        title="Holdfast",
        summary="A distributed task scheduler: at-least-once delivery, exactly-once effect.",
        description=openapi.introduction(),
        version=version("holdfast"),
        lifespan=lifespan,
        redirect_slashes=False,
        # Off: FastAPI's telemetry would use global providers; ours is in instrumentation/.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    for tag, modules in _TAGS.items():
        router = APIRouter(redirect_slashes=False, tags=[tag])
        for module in modules:
            module.routes(router)
        app.include_router(router)
    problems.install(app)
    openapi.install(app, keys=bool(settings.api_keys))
    _add_middleware(app, settings, telemetry)
    return app


def _add_middleware(app: FastAPI, settings: Settings, telemetry: Telemetry) -> None:
    # The middleware added last is the outermost.
    if settings.api_keys:
        app.add_middleware(BearerAuth, keys=settings.api_keys)
    else:
        app.add_middleware(HostGuard, names=settings.api_hosts)
    app.add_middleware(SingleHeaders)
    app.add_middleware(HeadAsGet)
    app.add_middleware(AccessLog, instrumentation=RequestInstrumentation(telemetry))
