"""The objects of one API process, created by its lifespan and injected into requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header
from fastapi import Request as HttpRequest

from holdfast.api import problems
from holdfast.api.auth import NAME_KEY
from holdfast.api.body import Bodies
from holdfast.api.coalescer import Coalescer
from holdfast.api.problems import Fault, Problem
from holdfast.api.readiness import Readiness
from holdfast.api.validation import RequestValidator
from holdfast.api.wakeup import Wakeup
from holdfast.instrumentation.requests import RequestTrace
from holdfast.instrumentation.tasks import TaskInstrumentation
from holdfast.instrumentation.telemetry import Telemetry
from holdfast.model.task import DEFAULT_NAMESPACE
from holdfast.store.store import Store

KEY_HEADER = "Idempotency-Key"
SCOPE_KEY = "holdfast.request"  # where the access middleware stores the request's telemetry


@dataclass(frozen=True, slots=True)
class Services:
    """The objects that hold connections or state, one of each per process."""

    store: Store
    actor: str
    bodies: Bodies
    validator: RequestValidator
    coalescer: Coalescer
    wakeup: Wakeup
    readiness: Readiness
    telemetry: Telemetry
    instrumentation: TaskInstrumentation


async def _services(request: HttpRequest) -> Services:
    services: Services = request.app.state.services
    return services


async def _request(
    request: HttpRequest,
    traceparent: Annotated[
        str | None,
        Header(description="W3C trace context, continued by the request and its task."),
    ] = None,
) -> RequestTrace:
    traced: RequestTrace = request.scope[SCOPE_KEY]
    return traced


async def _key_namespace(request: HttpRequest) -> str:
    name: str = request.scope.get(NAME_KEY, DEFAULT_NAMESPACE)
    return name


async def _refuse_key(request: HttpRequest) -> None:
    """Refuse an Idempotency-Key where it has no effect: the client counts on it."""
    if KEY_HEADER in request.headers:
        detail = "is supported by POST /tasks/ only; a batch has an idempotency_key in each item"
        fault = Fault(detail=detail, header=KEY_HEADER)
        raise Problem(problems.INVALID, f"{KEY_HEADER} {detail}.", faults=[fault])


async def _refuse_query(request: HttpRequest) -> None:
    """Refuse query parameters where there are none: such as a key that belongs to the header."""
    for name in request.query_params:
        shown, detail = name[:100], "is not a parameter of this request"
        fault = Fault(detail=detail, parameter=shown)
        raise Problem(problems.INVALID, f"{shown} {detail}.", faults=[fault])


NO_QUERY = Depends(_refuse_query)
NoKey = Annotated[None, Depends(_refuse_key)]
ServicesDep = Annotated[Services, Depends(_services)]
RequestDep = Annotated[RequestTrace, Depends(_request)]
NamespaceDep = Annotated[str, Depends(_key_namespace)]
