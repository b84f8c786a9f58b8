"""Build the OpenAPI document, including every problem type."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from holdfast.api.models import BatchRequest
from holdfast.api.problems import PROBLEM_TYPES, ProblemBody
from holdfast.model.problem_type import PROBLEM_MEDIA_TYPE, ProblemType
from holdfast.model.request import TaskRequest

_REF = "#/components/schemas/{model}"

_INTRODUCTION = """Submit a task: once the response is 201, the task is never lost.

Every SUCCEEDED task has exactly one effect in the ledger, regardless of crashes.
All times are UTC; a time without an offset is read as UTC.

Every error is `application/problem+json` (RFC 9457).
Of a member that a JSON object has twice, the last one counts; a batch that has `tasks` twice is
refused.

<details><summary>Values of <code>type</code></summary>

| type | status | title |
|---|---|---|
"""


def described(*kinds: ProblemType) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a route that may answer with these problems."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in sorted({kind.status for kind in kinds}):
        same = [kind for kind in kinds if kind.status == status]
        examples = {
            kind.slug: {"value": {"type": kind.uri, "title": kind.title, "status": status}}
            for kind in same
        }
        schema = {"$ref": _REF.format(model=ProblemBody.__name__)}
        responses[status] = {
            "description": "; ".join(kind.title for kind in same),
            "content": {PROBLEM_MEDIA_TYPE: {"schema": schema, "examples": examples}},
        }
    return responses


def described_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a route that reads its body itself."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def introduction() -> str:
    """Return the text above the routes, with a table of all problem types."""
    rows = (f"| `{kind.uri}` | {kind.status} | {kind.title} |" for kind in PROBLEM_TYPES)
    return _INTRODUCTION + "\n".join(rows) + "\n\n</details>"


def install(app: FastAPI, *, keys: bool) -> None:
    """Make ``app.openapi`` include the bodies, problems and, with ``keys``, the bearer scheme."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app, keys=keys)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _build(app: FastAPI, *, keys: bool) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    own: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (model, "validation") for model in (ProblemBody, TaskRequest, BatchRequest)
    ]
    schemas |= models_json_schema(own, ref_template=_REF)[1]["$defs"]
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document
