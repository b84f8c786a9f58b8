"""Bearer keys, and the addresses on which an API without keys may listen."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from holdfast.api.app import create_api
from holdfast.api.auth import require_safe_bind
from holdfast.errors import Misconfigured
from holdfast.settings import Settings
from holdfast.store.store import Store

KEYS = (SecretStr("first-key"), SecretStr("zweiter-schlüssel"))


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


async def test_everything_is_open_without_keys(api: httpx.AsyncClient) -> None:
    assert (await api.get("/tasks/")).status_code == 200
    document = (await api.get("/openapi.json")).json()
    assert "securitySchemes" not in document["components"]


def test_empty_key_is_refused() -> None:
    with pytest.raises(Misconfigured, match="empty key"):
        create_api(Settings(api_keys=(SecretStr("good"), SecretStr(" "))))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    require_safe_bind(Settings(api_host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_listening_beyond_loopback_needs_keys(host: str) -> None:
    with pytest.raises(Misconfigured, match="HOLDFAST_API_KEYS"):
        require_safe_bind(Settings(api_host=host))
    require_safe_bind(Settings(api_host=host, api_keys=KEYS))
    require_safe_bind(Settings(api_host=host, api_without_keys=True))
