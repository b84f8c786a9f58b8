"""Headers that mislead an API, by the bytes on the wire; HEAD; methods of ``/tasks/batch``."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from holdfast.api.access_log import AccessLog
from holdfast.instrumentation.requests import RequestInstrumentation
from holdfast.instrumentation.telemetry import create_telemetry
from holdfast.settings import Settings
from holdfast.store.store import Store
from holdfast.telemetry.logs import create_logger

JSON = {"Content-Type": "application/json"}
ABSENT = UUID(int=7 << 76 | 2 << 62)  # a UUIDv7 of no task
TASK = b'{"name": "echo"}'


async def exchange(url: str, request: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send a request with exactly these lines; return the status and the body of the answer."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, port)
    try:
        head = request.replace("{port}", port).replace("\n", "\r\n")
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        writer.write(f"{head}\r\nConnection: close\r\n{length}\r\n".encode("latin-1") + body)
        status, _, content = (await reader.read()).partition(b"\r\n\r\n")
        return int(status.split()[1]), content
    finally:
        writer.transport.abort()


def problem_of(content: bytes) -> str:
    return str(json.loads(content)["type"]).rpartition(":")[2]


KNOWN_HOSTS = (
    *("127.0.0.1:{port}", "127.0.0.1", "127.8.9.10:1", "localhost:{port}", "LocalHost"),
    *("[::1]:{port}", "[::1]"),
)
FOREIGN_HOSTS = (
    *("evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example"),
    *("x", "api", "10.0.0.1", "192.0.2.1:{port}", "0.0.0.0", "[::2]", "[::]", "127.1", ""),
    *("evil.example@127.0.0.1", "127.0.0.1@evil.example", "127.0.0.1/x", "127.0.0.1:x", "[", "]"),
    *("localhost, evil.example", "evil\xe9.example", "127.0.0.1#", "127.0.0.1?", "[::1"),
)


async def test_foreign_host_is_misdirected(served: str) -> None:
    """As after DNS rebinding: the connection is on loopback, the Host is the page's own."""
    for host in KNOWN_HOSTS:
        status, _ = await exchange(served, f"GET /tasks/ HTTP/1.1\nHost: {host}")
        assert status == 200, host
    for host in FOREIGN_HOSTS:
        for method, path in (
            ("GET", "/tasks/"),
            ("GET", "/metrics"),
            ("GET", "/docs"),
            ("POST", "/"),
        ):
            status, content = await exchange(served, f"{method} {path} HTTP/1.1\nHost: {host}")
            assert (status, problem_of(content)) == (421, "misdirected-request"), host
        status, _ = await exchange(served, f"GET /readyz HTTP/1.1\nHost: {host}")
        assert status == 200, "load balancers probe under any name"


async def test_host_must_be_given_once(served: str) -> None:
    for head in (
        "GET /tasks/ HTTP/1.1",
        "GET /tasks/ HTTP/1.1\nHost: localhost\nHost: evil.example",
        "GET /tasks/ HTTP/1.1\nHost: localhost\nHost: localhost",
    ):
        status, content = await exchange(served, head)
        assert (status, problem_of(content)) == (400, "malformed-request"), head
    assert (await exchange(served, "GET /tasks/ HTTP/1.0"))[0] == 200


async def test_foreign_origin_is_refused(served: str, api: httpx.AsyncClient) -> None:
    task = (await api.post("/tasks/", json={"name": "echo"})).json()
    cancel = f"POST /tasks/{task['id']}/cancel HTTP/1.1\nHost: localhost:{{port}}"
    for origin in ("http://evil.example", "null", "http://localhost:1", "http://localhost", ""):
        status, content = await exchange(
            served, f"{cancel}\nContent-Type: text/plain\nOrigin: {origin}", b"x"
        )
        assert (status, problem_of(content)) == (403, "foreign-origin"), origin
    submit = "POST /tasks/ HTTP/1.1\nHost: localhost:{port}\nContent-Type: application/json"
    status, _ = await exchange(served, f"{submit}\nOrigin: http://evil.example", TASK)
    assert status == 403
    status, _ = await exchange(served, f"{submit}\nOrigin: http://localhost:{{port}}", TASK)
    assert status == 201
    assert (await exchange(served, f"{cancel}\nOrigin: http://LOCALHOST:{{port}}"))[0] == 200


async def test_names_of_the_settings_are_known_hosts(
    settings: Settings, store: Store, open_api: Any
) -> None:
    named = settings.model_copy(update={"api_hosts": ("Tasks.example",)})
    async with open_api(named) as api:
        for host in ("tasks.example", "TASKS.example:8000"):
            answer = await api.get("/tasks/", headers={"Host": host})
            assert answer.status_code == 200
        page = {"Host": "tasks.example", "Origin": "https://tasks.example"}
        assert (await api.get("/tasks/", headers=page)).status_code == 200
        refused = await api.get("/tasks/", headers={"Host": "sub.tasks.example"})
        assert refused.status_code == 421
        assert "HOLDFAST_API_HOSTS" in refused.json()["detail"]


async def test_with_keys_any_host_is_served(
    settings: Settings, store: Store, open_api: Any
) -> None:
    """No web page knows a key."""
    keyed = settings.model_copy(update={"api_keys": {"default": (SecretStr("k"),)}})
    async with open_api(keyed) as api:
        headers = {"Host": "any.example", "Authorization": "Bearer k"}
        assert (await api.get("/tasks/", headers=headers)).status_code == 200


REPEATED = [
    ("Idempotency-Key: a", "Idempotency-Key: b"),
    ("Content-Type: text/plain", "content-type: application/json"),
    ("Content-Encoding: identity", "Content-Encoding: gzip"),
    ("Authorization: Bearer a", "Authorization: Bearer b"),
]


async def test_two_values_of_a_single_header_are_refused(
    served: str, api: httpx.AsyncClient
) -> None:
    for first, second in REPEATED:
        head = f"POST /tasks/ HTTP/1.1\nHost: localhost\nContent-Type: application/json\n{first}"
        status, content = await exchange(served, f"{head}\n{second}", TASK)
        assert (status, problem_of(content)) == (400, "malformed-request"), first
        name = first.partition(":")[0]
        assert json.loads(content)["errors"][0]["header"] == name
    assert (await api.get("/tasks/")).json()["tasks"] == []
    same = "Idempotency-Key: a\nIdempotency-Key: a"
    status, _ = await exchange(served, f"{head.replace(first, same)}", TASK)
    assert status == 201


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "identity, br"}, 415),
        ({"Content-Encoding": "Identity"}, 201),
        ({"Content-Type": "application/json; charset=utf-16"}, 415),
        ({"Content-Type": 'application/json;x=y; Charset = "latin-1"'}, 415),
        ({"Content-Type": "application/json; charset*=utf-8''utf-16"}, 415),
        ({"Content-Type": 'application/json; charset="UTF-8"'}, 201),
    ],
)
async def test_body_is_read_as_its_headers_say_or_not_at_all(
    api: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    for path, content in (("/tasks/", TASK), ("/tasks/batch", b'{"tasks": [' + TASK + b"]}")):
        answer = await api.post(path, content=content, headers={**JSON, **headers})
        assert answer.status_code == (200 if path.endswith("batch") and status == 201 else status)
        if status == 415:
            assert answer.json()["type"].endswith(":unsupported-media-type")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", "/tasks/"), ("POST", "/tasks"), ("POST", "/tasks/batch")),
        *(("POST", f"/tasks/{ABSENT}/cancel"), ("POST", f"/tasks/{ABSENT}/retry")),
        ("GET", f"/tasks/{ABSENT}"),
    ],
)
async def test_unknown_query_parameters_are_refused(
    api: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await api.request(method, f"{path}?idempotency_key=a", content=TASK, headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "idempotency_key"
    assert (await api.get("/tasks/")).json()["tasks"] == []


async def test_key_without_effect_is_refused(api: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "b1"}
    batch = await api.post("/tasks/batch", json={"tasks": [{"name": "echo"}]}, headers=key)
    assert batch.status_code == 422
    [fault] = batch.json()["errors"]
    assert fault["header"] == "Idempotency-Key"
    assert "idempotency_key in each item" in fault["detail"]
    empty = await api.post(
        "/tasks/batch", json={"tasks": [{"name": "echo"}]}, headers={"Idempotency-Key": ""}
    )
    assert empty.status_code == 422
    assert (await api.post(f"/tasks/{uuid4()}/retry", headers=key)).status_code == 422
    assert (await api.get("/tasks/")).json()["tasks"] == []


async def test_head_answers_as_get_without_the_body(served: str) -> None:
    async with httpx.AsyncClient(base_url=served) as client:
        task = (await client.post("/tasks/", json={"name": "echo"})).json()
        paths = ("/healthz", "/readyz", "/metrics", "/tasks/", f"/tasks/{task['id']}", "/docs")
        for path in (*paths, "/tasks/?limit=0", "/nothing"):
            got, head = await client.get(path), await client.head(path)
            assert head.status_code == got.status_code, path
            assert head.headers["Content-Type"] == got.headers["Content-Type"]
            assert head.content == b""
            if path != "/metrics":  # which grows
                assert head.headers["Content-Length"] == str(len(got.content))
        assert (await client.head("/tasks/batch")).status_code == 405
        text = (await client.get("/metrics")).text
    assert 'holdfast_http_requests_total{method="HEAD",route="/tasks/",status="200"} 1.0' in text


async def test_batch_is_no_task(api: httpx.AsyncClient) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = await api.request(method, "/tasks/batch")
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST"), method
        assert answer.json()["type"].endswith(":method-not-allowed")


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000001Z"),
        ("0001-01-01T00:00:00", "0001-01-01T00:00:00.000001Z"),
        ("0001-01-01T00:00:01Z", "0001-01-01T00:00:01Z"),
        ("1969-07-20T20:17:40Z", "1969-07-20T20:17:40Z"),
    ],
)
async def test_the_first_times_can_be_read(api: httpx.AsyncClient, sent: str, read: str) -> None:
    created = (await api.post("/tasks/", json={"name": "echo", "run_at": sent})).json()
    listed = (await api.get("/tasks/")).json()["tasks"][0]
    for task in (created, listed, (await api.get(f"/tasks/{created['id']}")).json()):
        assert task["run_at"] == read
    for status in (201, 200):
        keyed = {"name": "echo", "run_at": sent, "idempotency_key": "k"}
        assert (await api.post("/tasks/", json=keyed)).status_code == status


async def test_filters_take_the_first_and_the_last_time(api: httpx.AsyncClient) -> None:
    task = (
        await api.post("/tasks/", json={"name": "echo", "run_at": "0001-01-01T00:00:00Z"})
    ).json()
    bounds = {
        "after": ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000001Z"],
        "before": ["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999998Z"],
    }
    for column in ("created", "run"):
        for side, instants in bounds.items():
            for instant in instants:
                page = (await api.get("/tasks/", params={f"{column}_{side}": instant})).json()
                assert [UUID(found["id"]) for found in page["tasks"]] == [UUID(task["id"])]


async def test_refused_requests_do_not_fill_the_log() -> None:
    log = io.StringIO()

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": scope["status"], "headers": []})
        await send({"type": "http.response.body"})

    async def sent(_: Any) -> None: ...

    telemetry = create_telemetry(Settings(), "api")
    telemetry = replace(telemetry, log=create_logger(style="json", stream=log))
    app = AccessLog(refuse, RequestInstrumentation(telemetry))
    for status, number in ((401, 1000), (200, 200), (503, 200)):
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "status": status}
        for _ in range(number):
            await app(dict(scope), sent, sent)  # type: ignore[arg-type]
    lines = [json.loads(line)["status"] for line in log.getvalue().splitlines()]
    assert {status: lines.count(status) for status in lines} == {401: 100, 200: 200, 503: 200}
