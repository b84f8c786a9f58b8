"""``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from holdfast.api import problems
from holdfast.api.dependencies import ServicesDep
from holdfast.api.models import Health
from holdfast.api.openapi import described


def routes(router: APIRouter) -> None:
    """Add the three routes."""
    ready = described(problems.NOT_READY)
    router.get("/healthz", response_model=Health)(healthz)
    router.get("/readyz", response_model=Health, responses=ready)(readyz)
    router.get("/metrics", response_class=Response)(metrics)


async def healthz() -> Health:
    """Report that the process is alive."""
    return Health(status="ok")


async def readyz(services: ServicesDep) -> Health:
    """Report whether the process can serve: the database answers and its schema matches."""
    await services.readiness.require()
    return Health(status="ready")


async def metrics(request: Request, services: ServicesDep) -> Response:
    """Return metrics for Prometheus. Requires a key if keys are configured."""
    accept = request.headers.get("accept", "")
    text, content_type = services.telemetry.metrics.render(accept)
    return Response(text, media_type=content_type)
