"""Bearer keys, and the addresses on which an API without keys may listen."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine

from holdfast.api.app import create_api
from holdfast.api.auth import require_safe_bind
from holdfast.client import enqueue
from holdfast.errors import Misconfigured
from holdfast.settings import Settings
from holdfast.store.store import Store

KEYS = {
    "shop": (SecretStr("first-key"),),
    "desk": (SecretStr("zweiter-schlüssel"), SecretStr("next")),
}


@pytest.fixture
def guarded(settings: Settings) -> Settings:
    return settings.model_copy(update={"api_keys": KEYS})


WRONG = ("", "Bearer", "Bearer ", "Bearer wrong", "Basic first-key", "first-key", "Bearer ä")
WITHOUT = [[], *([(b"Authorization", wrong.encode())] for wrong in WRONG)]


async def test_request_without_a_valid_key_is_refused(
    guarded: Settings, store: Store, open_api: Any
) -> None:
    async with open_api(guarded) as api:
        for headers in WITHOUT:
            await refused(api, headers)


async def refused(api: httpx.AsyncClient, headers: list[tuple[bytes, bytes]]) -> None:
    for method, path in (
        ("POST", "/tasks/"),
        ("GET", "/tasks/"),
        ("GET", "/metrics"),
        ("GET", "/nothing"),
        ("GET", "/healthz/"),
    ):
        answer = await api.request(method, path, headers=headers)
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "first-key" not in answer.text
    for path in ("/healthz", "/readyz", "/openapi.json", "/docs"):
        assert (await api.get(path, headers=headers)).status_code == 200, path


async def test_every_key_is_accepted(guarded: Settings, store: Store, open_api: Any) -> None:
    async with open_api(guarded) as api:
        for key in ("Bearer first-key", "bearer  first-key"):
            answer = await api.get("/tasks/", headers={"Authorization": key})
            assert answer.status_code == 200
        raw = [(b"Authorization", "Bearer zweiter-schlüssel".encode())]
        assert (await api.get("/tasks/", headers=raw)).status_code == 200
        document = (await api.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


async def submit(api: httpx.AsyncClient, secret: str, n: int, key: str) -> httpx.Response:
    headers = [(b"Authorization", f"Bearer {secret}".encode())]
    body = {"name": "echo", "payload": {"n": n}, "idempotency_key": key}
    single = await api.post("/tasks/", headers=headers, json=body)
    batch = await api.post("/tasks/batch", headers=headers, json={"tasks": [body]})
    (again,) = batch.json()["results"]  # a repeat, whatever became of the first
    assert (again["status"], "id" in single.json()) in {(200, True), (422, False)}
    return single


async def test_clients_of_different_names_may_use_equal_idempotency_keys(
    guarded: Settings, store: Store, open_api: Any
) -> None:
    async with open_api(guarded) as api:
        shop = await submit(api, "first-key", 1, "order-1")
        same = await submit(api, "next", 1, "order-1")
        other = await submit(api, "first-key", 2, "order-2")
        different = await submit(api, "next", 3, "order-2")
        reused = await submit(api, "first-key", 3, "order-2")
    assert [a.status_code for a in (shop, same, other, different)] == [201] * 4
    assert len({a.json()["id"] for a in (shop, same, other, different)}) == 4
    assert (reused.status_code, reused.json()["task_id"]) == (422, other.json()["id"])


async def test_replaced_secret_keeps_the_idempotency_keys_of_its_name(
    guarded: Settings, store: Store, open_api: Any
) -> None:
    async with open_api(guarded) as api:
        before = await submit(api, "zweiter-schlüssel", 1, "order-1")
        after = await submit(api, "next", 1, "order-1")
    assert (before.status_code, after.status_code) == (201, 200)
    assert before.json()["id"] == after.json()["id"]


async def test_list_of_keys_shares_the_namespace_of_enqueue(
    settings: Settings, store: Store, open_api: Any
) -> None:
    plain = Settings(**{**settings.model_dump(), "api_keys": ["one", "two"]})
    engine = create_engine(settings.database_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        task_id = enqueue(connection, "echo", {"n": 1}, idempotency_key="order-1")
    engine.dispose()
    async with open_api(plain) as api:
        answers = [await submit(api, secret, 1, "order-1") for secret in ("one", "two")]
    assert [(a.status_code, a.json()["id"]) for a in answers] == [(200, str(task_id))] * 2


async def test_everything_is_open_without_keys(api: httpx.AsyncClient) -> None:
    assert (await api.get("/tasks/")).status_code == 200
    document = (await api.get("/openapi.json")).json()
    assert "securitySchemes" not in document["components"]


def test_empty_key_is_refused() -> None:
    with pytest.raises(Misconfigured, match="empty key"):
        create_api(Settings(api_keys={"shop": (SecretStr("good"), SecretStr(" "))}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    require_safe_bind(Settings(api_host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_listening_beyond_loopback_needs_keys(host: str) -> None:
    with pytest.raises(Misconfigured, match="HOLDFAST_API_KEYS"):
        require_safe_bind(Settings(api_host=host))
    require_safe_bind(Settings(api_host=host, api_keys=KEYS))
    require_safe_bind(Settings(api_host=host, api_without_keys=True))
