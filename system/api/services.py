"""What one API process works with; the lifespan makes it, requests borrow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header
from fastapi import Request as HttpRequest

from system.api.coalescer import Coalescer
from system.api.intake import Intake
from system.api.poker import Poker
from system.api.readiness import Readiness
from system.store import Store
from system.telling.requests import RequestTrace
from system.telling.submits import TaskInstrumentation
from system.telling.telemetry import Telemetry

SCOPE_KEY = "holdfast.request"  # where the access middleware leaves what it began


@dataclass(frozen=True, slots=True)
class Services:
    """Everything with a connection or a memory."""

    store: Store
    actor: str
    intake: Intake
    coalescer: Coalescer
    poker: Poker
    readiness: Readiness
    telemetry: Telemetry
    instrumentation: TaskInstrumentation


async def _services(request: HttpRequest) -> Services:
    services: Services = request.app.state.services
    return services


async def _asked(
    request: HttpRequest,
    traceparent: Annotated[
        str | None,
        Header(description="W3C trace context that the request, and a task it makes, continue."),
    ] = None,
) -> RequestTrace:
    asked: RequestTrace = request.scope[SCOPE_KEY]
    return asked


Borrowed = Annotated[Services, Depends(_services)]
Asked = Annotated[RequestTrace, Depends(_asked)]
