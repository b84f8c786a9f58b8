"""Every error is problem+json, including those of the framework and unexpected ones."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from holdfast.api import openapi
from holdfast.api.access_log import AccessLog
from holdfast.api.app import create_api
from holdfast.api.problems import PROBLEM_TYPES
from holdfast.instrumentation.requests import RequestInstrumentation
from holdfast.instrumentation.telemetry import create_telemetry
from holdfast.settings import Settings
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.logs import create_logger

ERRORS = [
    ("GET", "/nothing/here", 404, "not-found"),
    ("POST", "/tasks/batch/more", 404, "not-found"),
    ("DELETE", "/tasks/", 405, "method-not-allowed"),
    ("PUT", "/tasks/0197a1b2-3c4d-7e5f-8a6b-7c8d9e0f1a2b", 405, "method-not-allowed"),
    ("GET", "/tasks/no-uuid", 422, "invalid-request"),
    ("POST", "/tasks/", 415, "unsupported-media-type"),
]


async def test_shape(api: httpx.AsyncClient) -> None:
    for method, path, status, slug in ERRORS:
        answer = await api.request(method, path)
        assert answer.status_code == status, path
        assert answer.headers["Content-Type"] == "application/problem+json"
        problem = answer.json()
        assert problem["type"] == f"urn:holdfast:problem:{slug}"
        assert problem["status"] == status
        assert problem["instance"] == path
        assert problem["title"]
        assert problem["detail"]
        if status == 405:
            allowed = {"/tasks/": "GET, POST"}.get(path, "GET")
            assert answer.headers["Allow"] == allowed
            assert f"allowed: {allowed}." in problem["detail"]


async def test_unexpected_error_is_a_500_without_details() -> None:
    """The log has the location but not the message, which may contain a payload."""
    log = io.StringIO()

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        secret = "my payload"
        raise RuntimeError(secret)

    telemetry = create_telemetry(Settings(log_format="json"), "api")
    telemetry = replace(telemetry, log=create_logger(style="json", stream=log))
    app = AccessLog(broken, RequestInstrumentation(telemetry))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        answer = await client.get("/tasks/")
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:holdfast:problem:internal-error"
    bug, request = map(json.loads, log.getvalue().splitlines())
    assert bug["event_name"] == EventName.REQUEST_CRASHED
    assert bug["error"] == "RuntimeError"
    assert "test_problems.py" in bug["where"][-1]
    assert request["status"] == 500
    assert "my payload" not in log.getvalue() + answer.text


async def test_unexpected_error_in_a_route_is_a_500(
    settings: Settings, open_api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api(settings) as api:
        services = api._transport.app.state.services
        monkeypatch.setattr(type(services.store), "get", None)
        answer = await api.get("/tasks/0197a1b2-3c4d-7e5f-8a6b-7c8d9e0f1a2b")
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_openapi_lists_every_problem_type(api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    for kind in PROBLEM_TYPES:
        assert kind.uri in document["info"]["description"]
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    assert {"Task", "TaskRequest", "ProblemBody", "BatchResult", "Attempt"} <= schemas.keys()
    assert schemas["Task"]["examples"][0]["state"] == "SUCCEEDED"
    for path, operations in document["paths"].items():
        assert path.rstrip("/") == path or path == "/tasks/", "each operation once"
        for operation in operations.values():
            for status, response in operation["responses"].items():
                kinds = response.get("content", {}).keys()
                assert kinds == ({"application/problem+json"} if status >= "400" else kinds)


def test_every_reference_in_the_openapi_document_resolves(settings: Settings) -> None:
    document = create_api(settings).openapi()
    names = document["components"]["schemas"].keys()
    text = json.dumps(document)
    used = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used <= names
    items = document["components"]["schemas"]["BatchRequest"]["properties"]["tasks"]["items"]
    assert items == {"$ref": "#/components/schemas/TaskRequest"}


def test_documented_examples_match_the_models() -> None:
    """The models accept every documented task and return it unchanged."""
    from holdfast.api.models import Task
    from holdfast.model.request import TaskRequest

    [example] = Task.model_json_schema()["examples"]
    assert json.loads(Task.model_validate(example).model_dump_json()) == example
    [request] = TaskRequest.model_json_schema()["examples"]
    assert TaskRequest.model_validate(request).name == "send_email"


def test_slugs_are_unique() -> None:
    assert len({kind.slug for kind in PROBLEM_TYPES}) == len(PROBLEM_TYPES)
    statuses = set(openapi.described(*PROBLEM_TYPES))
    assert statuses == {kind.status for kind in PROBLEM_TYPES}
