"""The start of a role while a server that it needs is away."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from command import Command
from waiting import until, wait_until
from wire import wire_to

from holdfast.settings import Settings
from holdfast.telemetry.event_names import EventName


@pytest.mark.parametrize("role", ["api", "scheduler", "worker"])
async def test_role_waits_at_the_start_until_postgres_answers(
    command: Command, settings: Settings, role: str
) -> None:
    async with wire_to(settings.database_url) as wire:
        wire.refuse()
        with command.running(role, HOLDFAST_DATABASE_URL=wire.url) as running:
            url = await asyncio.to_thread(running.url)
            async with httpx.AsyncClient(base_url=url) as client:
                answer = await client.get("/readyz")
                assert answer.status_code == 503
                assert "cannot reach Postgres" in answer.text
                assert (await client.get("/healthz")).status_code == 200
                assert running.events().count(EventName.STARTUP_WAITING) == 1
                assert "Traceback" not in running.log.read_text()
                wire.heal()
                await until(lambda: _is_ready(client))
            assert await asyncio.to_thread(running.terminate) == 0
            assert running.events().count(EventName.STARTUP_WAITING) == 1


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("role", ["api", "scheduler", "worker"])
def test_role_that_waits_at_the_start_stops_on_a_signal(command: Command, role: str) -> None:
    nowhere = {"HOLDFAST_DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}
    with command.running(role, **nowhere) as running:
        running.url()
        assert running.terminate() == 0


def test_role_without_redis_is_not_ready(command: Command) -> None:
    with command.running("scheduler", HOLDFAST_REDIS_URL="redis://127.0.0.1:1/0") as running:
        url = running.url()
        wait_until(lambda: "dispatch" in httpx.get(f"{url}/readyz").json().get("stalled", ()))
        assert "no success since the start" in httpx.get(f"{url}/readyz").text
        assert "Traceback" not in running.log.read_text()
