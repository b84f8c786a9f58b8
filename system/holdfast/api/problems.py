"""Answer every error as RFC 9457 ``application/problem+json``."""

from __future__ import annotations

import http
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from holdfast.api.coalescer import Overloaded
from holdfast.errors import Misconfigured, OutcomeUnknown, Unavailable
from holdfast.model.payload import escape
from holdfast.model.problem_type import PROBLEM_MEDIA_TYPE, ProblemType
from holdfast.runtime.refusals import REFUSALS

RETRY_AFTER_SECONDS = 1
_ERRORS_MAX = 50


MALFORMED = ProblemType("malformed-json", 400, "Malformed JSON")
INVALID_CURSOR = ProblemType("invalid-cursor", 400, "Invalid cursor")
UNAUTHORIZED = ProblemType("unauthorized", 401, "API key required")
NOT_FOUND = ProblemType("not-found", 404, "Not found")
NOT_ALLOWED = ProblemType("method-not-allowed", 405, "Method not allowed")
CONFLICT = ProblemType("state-conflict", 409, "Task state does not allow this")
TOO_LARGE = ProblemType("content-too-large", 413, "Content too large")
MEDIA = ProblemType("unsupported-media-type", 415, "Unsupported media type")
INVALID = ProblemType("invalid-request", 422, "Invalid request")
UNSTORABLE = ProblemType("unstorable-payload", 422, "Payload cannot be stored")
UNKNOWN_NAME = ProblemType("unknown-name", 422, "Unknown task name")
UNKNOWN_QUEUE = ProblemType("unknown-queue", 422, "Unknown queue")
KEY_REUSED = ProblemType("idempotency-key-reused", 422, "Idempotency key already used")
INTERNAL = ProblemType("internal-error", 500, "Internal error")
UNAVAILABLE = ProblemType("unavailable", 503, "Unavailable, nothing was done")
OVERLOADED = ProblemType("overloaded", 503, "Overloaded, nothing was done")
OUTCOME_UNKNOWN = ProblemType("outcome-unknown", 503, "Outcome unknown")
UNREADABLE = ProblemType("done-but-unread", 503, "Done, but the task could not be read")
NOT_READY = ProblemType("not-ready", 503, "Not ready")
MISCONFIGURED = ProblemType("misconfigured", 503, "Server misconfigured")

PROBLEM_TYPES = (
    *(MALFORMED, INVALID_CURSOR, UNAUTHORIZED, NOT_FOUND, NOT_ALLOWED, CONFLICT, TOO_LARGE),
    *(MEDIA, INVALID, UNSTORABLE, UNKNOWN_NAME, UNKNOWN_QUEUE, KEY_REUSED, INTERNAL),
    *(UNAVAILABLE, OVERLOADED, OUTCOME_UNKNOWN, UNREADABLE, NOT_READY, MISCONFIGURED),
    *REFUSALS,
)


class Fault(BaseModel):
    """One error in the request: in its body, a parameter or a header."""

    detail: str
    pointer: str | None = Field(None, description="JSON pointer into the body.")
    parameter: str | None = Field(None, description="Name of a query or path parameter.")
    header: str | None = Field(None, description="Name of a header.")


class ProblemBody(BaseModel):
    """An RFC 9457 problem. Some types add members, such as ``task_id`` or ``state``."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=[INVALID.uri])
    title: str = Field(examples=[INVALID.title])
    status: int = Field(examples=[INVALID.status])
    detail: str = Field(examples=["priority: Input should be less than or equal to 9"])
    instance: str | None = Field(None, description="Path of the request.", examples=["/tasks/"])
    errors: list[Fault] | None = None


class Problem(HTTPException):
    """The error response to a request; ``extra`` become members of the body.

    An HTTPException, because FastAPI propagates only those while it reads a body.
    """

    def __init__(
        self,
        kind: ProblemType,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(kind.status, detail, headers)
        self.kind = kind
        self.faults = faults
        self.extra = extra

    def body(self, instance: str | None = None) -> dict[str, Any]:
        """Return the members of the problem that have a value."""
        body: dict[str, Any] = self.kind.body(self.detail)
        if instance is not None:
            body["instance"] = instance
        if self.faults:
            body["errors"] = [fault.model_dump(exclude_none=True) for fault in self.faults]
        return body | self.extra

    def response(self, instance: str | None) -> Response:
        """Return the HTTP response; every 503 has a Retry-After."""
        headers = dict(self.headers or {})
        if self.kind.status == http.HTTPStatus.SERVICE_UNAVAILABLE:
            headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
        content = orjson.dumps(self.body(instance))
        return Response(content, self.kind.status, headers, PROBLEM_MEDIA_TYPE)


def from_validation(
    errors: Sequence[Mapping[str, Any]], prefix: str | None = None, errors_max: int = _ERRORS_MAX
) -> Problem:
    """Return the problem for validation errors of FastAPI, or of pydantic.

    ``prefix``, for those of pydantic, is the JSON pointer to the validated value.
    """
    faults = [_fault(error, prefix) for error in errors[:errors_max]]
    first = faults[0]
    where = first.pointer or first.parameter or first.header or "body"
    more = f" (and {len(errors) - 1} more, see errors)" if len(errors) > 1 else ""
    return Problem(INVALID, f"{where}: {first.detail}{more}", faults=faults)


def from_error(error: Exception, *, reading: bool) -> Problem:
    """Return the problem for an error; ``reading``: the request changes nothing."""
    match error:
        case Overloaded():
            return Problem(OVERLOADED, str(error))
        case Unavailable():
            return Problem(UNAVAILABLE, str(error))
        case OutcomeUnknown() if reading:
            return Problem(UNAVAILABLE, str(error))
        case OutcomeUnknown():
            return Problem(
                OUTCOME_UNKNOWN,
                f"{error}. Read the task to see its state before sending the request again.",
            )
        case Misconfigured():
            return Problem(MISCONFIGURED, str(error))
        case _:
            pass
    return Problem(INTERNAL, "This is a bug in Holdfast; see the server's log.")


def install(app: FastAPI) -> None:
    """Install handlers for every error of a request, including those of FastAPI."""

    async def handle(request: Request, error: Exception) -> Response:
        match error:
            case Problem():
                problem = error
            case RequestValidationError():
                problem = from_validation(error.errors())
            case HTTPException():
                problem = _from_http(request, error)
            case _:
                reading = request.method in {"GET", "HEAD"}
                problem = from_error(error, reading=reading)
        return problem.response(request.url.path)

    handled: tuple[type[Exception], ...] = (HTTPException, RequestValidationError)
    for kind in (*handled, Overloaded, Unavailable, OutcomeUnknown, Misconfigured):
        app.add_exception_handler(kind, handle)


def _from_http(request: Request, error: HTTPException) -> Problem:
    """Return the problem for an error of the framework, such as an unknown path or method."""
    path = request.url.path
    if error.status_code == NOT_FOUND.status:
        return Problem(NOT_FOUND, f"No resource at {path[:200]}; see /docs.")
    if error.status_code == NOT_ALLOWED.status:
        allowed = _methods(request)
        detail = f"{request.method} is not allowed at {path[:200]}; allowed: {allowed}."
        return Problem(NOT_ALLOWED, detail, headers={"Allow": allowed})
    title = http.HTTPStatus(error.status_code).phrase
    kind = ProblemType(title.lower().replace(" ", "-"), error.status_code, title)
    return Problem(kind, str(error.detail), headers=error.headers)


def _methods(request: Request) -> str:
    """Return the methods of all routes of this path; Starlette reports the first route's."""

    def supported(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)

    return ", ".join(filter(supported, ("GET", "POST", "PUT", "PATCH", "DELETE")))


def _fault(error: Mapping[str, Any], prefix: str | None) -> Fault:
    detail = str(error["msg"]).removeprefix("Value error, ")
    location = tuple(error["loc"])
    if prefix is not None:
        location = ("body", *location)
    place, *rest = location or ("body",)
    name = str(rest[0])[:100] if rest else str(place)
    if place in {"query", "path"}:
        return Fault(detail=detail, parameter=name)
    if place == "header":
        return Fault(detail=detail, header=name)
    place = "".join(f"/{escape(part)}" for part in rest)
    return Fault(detail=detail, pointer=(prefix or "") + place)
