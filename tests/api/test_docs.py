"""The documentation pages: complete without internet access, and open without a key."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import SecretStr

from holdfast.settings import Settings
from holdfast.store.store import Store


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_pages_load_all_assets_from_this_server(
    settings: Settings, store: Store, open_api: Any, page: str
) -> None:
    guarded = settings.model_copy(update={"api_keys": {"shop": (SecretStr("key"),)}})
    async with open_api(guarded) as api:
        shown = await api.get(page)
        assert shown.status_code == 200
        loaded = re.findall(r'(?:src|href)="([^"]+)"', shown.text)
        assert any(address.endswith(".js") for address in loaded)
        for address in loaded:
            assert address.startswith("/"), f"{page} needs the internet for {address}"
            assert (await api.get(address)).status_code == 200
        assert (await api.get("/openapi.json")).status_code == 200
        assert (await api.get("/tasks/")).status_code == 401
