"""What one API process works with; the lifespan makes it, requests borrow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import Depends, Request

from observability.metrics import Metrics
from system.api.coalescer import Coalescer
from system.api.intake import Intake
from system.api.poker import Poker
from system.api.readiness import Readiness
from system.store import Store


@dataclass(frozen=True, slots=True)
class Services:
    """Everything with a connection or a memory."""

    store: Store
    actor: str
    intake: Intake
    coalescer: Coalescer
    poker: Poker
    readiness: Readiness
    metrics: Metrics
    log: structlog.stdlib.BoundLogger


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Borrowed = Annotated[Services, Depends(_services)]
