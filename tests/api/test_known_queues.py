"""Tasks are accepted only in queues that some worker announced, or a setting names."""

from __future__ import annotations

from typing import Any

import httpx
from waiting import until

from holdfast.model.ids import new_id
from holdfast.settings import Settings
from holdfast.store.store import Store


async def test_unknown_queue_is_refused_with_the_known_ones(api: httpx.AsyncClient) -> None:
    answer = await api.post("/tasks/", json={"name": "echo", "queue": "mial"})
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["type"] == "urn:holdfast:problem:unknown-queue"
    assert problem["errors"] == [{"detail": "not a known queue", "pointer": "/queue"}]
    assert problem["known_queues"] == ["Mail-1", "a", "b", "default", "other", "slow"]
    for part in ("mial", "Mail-1", "HOLDFAST_QUEUES", "HOLDFAST_KNOWN_QUEUES"):
        assert part in problem["detail"]
    assert (await api.get("/tasks/")).json()["tasks"] == []


async def test_item_of_a_batch_with_an_unknown_queue_is_refused_alone(
    api: httpx.AsyncClient,
) -> None:
    items = [{"name": "echo"}, {"name": "echo", "queue": "mial"}, {"name": "echo", "queue": "a"}]
    results = (await api.post("/tasks/batch", json={"tasks": items})).json()["results"]
    assert [result["status"] for result in results] == [201, 422, 201]
    refused = results[1]["problem"]
    assert refused["type"] == "urn:holdfast:problem:unknown-queue"
    assert refused["errors"][0]["pointer"] == "/tasks/1/queue"


async def test_many_known_queues_are_counted_not_listed(
    api: httpx.AsyncClient, store: Store
) -> None:
    await store.announce_queues([f"queue_{n:03}" for n in range(200)])
    answer = await api.post("/tasks/", json={"name": "echo", "queue": "mial"})
    assert len(answer.json()["known_queues"]) == 50
    assert "and 156 more" in answer.json()["detail"]


async def test_queue_is_accepted_soon_after_a_worker_announced_it(
    api: httpx.AsyncClient, store: Store
) -> None:
    body = {"name": "echo", "queue": "fresh"}
    assert (await api.post("/tasks/", json=body)).status_code == 422
    await store.register(new_id(), "worker-9", ["fresh"], [])

    async def known() -> bool:
        return (await api.post("/tasks/", json=body)).status_code == 201

    await until(known)


async def test_unknown_names_may_be_accepted_but_unknown_queues_are_not(
    settings: Settings, store: Store, open_api: Any
) -> None:
    async with open_api(settings.model_copy(update={"accept_unknown_names": True})) as api:
        refused = await api.post("/tasks/", json={"name": "later", "queue": "mial"})
    assert refused.json()["type"] == "urn:holdfast:problem:unknown-queue"


async def test_queues_of_the_setting_and_default_are_known_without_postgres(
    settings: Settings, open_api: Any
) -> None:
    """As with names: what is not cached cannot be judged, and nothing was done."""
    away = {
        "database_url": "postgresql://x@127.0.0.1:1/x",
        "accept_unknown_names": True,
        "known_queues": ("reports",),
        "submit_timeout_seconds": 0.3,
    }
    async with open_api(settings.model_copy(update=away)) as api:
        answers = {
            queue: (await api.post("/tasks/", json={"name": "echo", "queue": queue})).json()
            for queue in ("reports", "default", "mail")
        }
    assert {answer["type"] for answer in answers.values()} == {"urn:holdfast:problem:unavailable"}
    # The known ones failed only when they were stored.
    assert answers["reports"]["detail"] == answers["default"]["detail"]


async def test_queue_of_the_setting_takes_tasks_before_any_worker(
    settings: Settings, store: Store, open_api: Any
) -> None:
    async with open_api(settings.model_copy(update={"known_queues": ("reports",)})) as api:
        stored = await api.post("/tasks/", json={"name": "echo", "queue": "reports"})
        refused = await api.post("/tasks/", json={"name": "echo", "queue": "mial"})
    assert (stored.status_code, refused.status_code) == (201, 422)
    assert "reports" in refused.json()["known_queues"]
