"""Responses during outages, over real TCP connections that are cut or lose replies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from waiting import until

from holdfast.model.claim import Announcement
from holdfast.model.ids import new_id
from holdfast.model.lifecycle import State
from holdfast.model.task import TaskFilter
from holdfast.settings import Settings
from holdfast.store.store import Store

HopTo = Callable[[str], Awaitable[Any]]


@pytest.fixture
async def postgres_hop(hop_to: HopTo, settings: Settings) -> Any:
    return await hop_to(settings.database_url)


@pytest.fixture
def through(settings: Settings, postgres_hop: Any) -> Settings:
    """Settings of an API that reaches Postgres through the proxy, with short timeouts."""
    return settings.model_copy(
        update={
            "database_url": postgres_hop.url,
            "statement_timeout_seconds": 0.3,
            "submit_timeout_seconds": 1.0,
            "connect_timeout_seconds": 1.0,
        }
    )


def is_unavailable(answer: httpx.Response) -> bool:
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) >= 1
    kind: str = answer.json()["type"]
    return answer.status_code == 503 and kind == "urn:holdfast:problem:unavailable"


async def test_postgres_outage_is_503_and_recovers(
    through: Settings, postgres_hop: Any, store: Store, open_api: Any
) -> None:
    async with open_api(through) as api:
        task_id = (await api.post("/tasks/", json={"name": "echo"})).json()["id"]
        postgres_hop.refuse = True
        postgres_hop.cut()
        assert is_unavailable(await api.post("/tasks/", json={"name": "echo"}))
        assert is_unavailable(await api.get(f"/tasks/{task_id}"))
        assert is_unavailable(await api.get("/tasks/"))
        assert is_unavailable(await api.post(f"/tasks/{task_id}/cancel"))
        batch = await api.post("/tasks/batch", json={"tasks": [{"name": "echo"}, {}]})
        assert [result["status"] for result in batch.json()["results"]] == [503, 422]
        ready = await api.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["type"] == "urn:holdfast:problem:not-ready"
        assert "Postgres" in ready.json()["detail"]
        assert (await api.get("/healthz")).status_code == 200
        postgres_hop.refuse = False
        assert (await api.post("/tasks/", json={"name": "echo"})).status_code == 201
    assert len((await store.list_tasks(TaskFilter(), 10))[0]) == 2


async def test_api_started_without_postgres_serves_once_it_is_up(
    through: Settings, postgres_hop: Any, store: Store, open_api: Any
) -> None:
    postgres_hop.refuse = True
    async with open_api(through) as api:
        assert is_unavailable(await api.post("/tasks/", json={"name": "echo"}))
        postgres_hop.refuse = False

        async def accepted() -> bool:
            return bool((await api.post("/tasks/", json={"name": "echo"})).status_code == 201)

        await until(accepted)


async def test_lost_reply_is_settled_within_the_request(
    through: Settings, postgres_hop: Any, store: Store, open_api: Any
) -> None:
    patient = through.model_copy(update={"submit_timeout_seconds": 10.0})
    async with open_api(patient) as api:
        await api.post("/tasks/", json={"name": "echo"})
        postgres_hop.swallow_replies = True
        posting = asyncio.create_task(api.post("/tasks/", json={"name": "echo"}))
        await postgres_hop.swallowed.wait()
        postgres_hop.swallow_replies = False
        answer = await posting
    assert answer.status_code == 201
    stories = [await store.get(task.id) for task in (await store.list_tasks(TaskFilter(), 10))[0]]
    assert UUID(answer.json()["id"]) in {story.task.id for story in stories if story}
    assert [len(story.events) for story in stories if story] == [1, 1], "each stored once"


@pytest.mark.parametrize("key", [None, "order-17"])
async def test_unknown_outcome_is_reported_with_advice(
    through: Settings, postgres_hop: Any, store: Store, open_api: Any, key: str | None
) -> None:
    headers = {"Idempotency-Key": key} if key else {}
    async with open_api(through) as api:
        await api.post("/tasks/", json={"name": "echo"})
        postgres_hop.swallow_replies = True
        answer = await api.post("/tasks/", json={"name": "echo"}, headers=headers)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        problem = answer.json()
        assert problem["type"] == "urn:holdfast:problem:outcome-unknown"
        task_id = problem["task_id"]
        # It was stored, so the response must not report a failure.
        assert await store.get(UUID(task_id)) is not None
        if key is None:
            assert "may create a second task" in problem["detail"]
            assert f"GET /tasks/{task_id}" in problem["detail"]
            return
        assert "Repeat the request with the same Idempotency-Key" in problem["detail"]
        postgres_hop.swallow_replies = False
        again = await api.post("/tasks/", json={"name": "echo"}, headers=headers)
        assert again.status_code == 200
        assert again.json()["id"] == task_id
    assert len((await store.list_tasks(TaskFilter(), 10))[0]) == 2


async def test_unanswered_read_is_503(
    through: Settings, postgres_hop: Any, store: Store, open_api: Any
) -> None:
    async with open_api(through) as api:
        task_id = (await api.post("/tasks/", json={"name": "echo"})).json()["id"]
        postgres_hop.swallow_replies = True
        assert is_unavailable(await api.get(f"/tasks/{task_id}"))
        cancel = await api.post(f"/tasks/{task_id}/cancel")
        assert cancel.status_code == 503


async def test_completed_action_is_not_reported_as_a_failure(
    through: Settings, postgres_hop: Any, store: Store, open_api: Any
) -> None:
    """The reply to the cancel arrives, the reply to the read of the task does not."""
    async with open_api(through) as api:
        task_id = (await api.post("/tasks/", json={"name": "echo"})).json()["id"]
        postgres_hop.swallow_after = b"jsonb_agg"
        answer = await api.post(f"/tasks/{task_id}/cancel")
        assert postgres_hop.swallowed.is_set()
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:holdfast:problem:done-but-unread"
    story = await store.get(UUID(task_id))
    assert story is not None
    assert story.task.state is State.CANCELLED


async def test_unanswered_action_is_unknown(
    through: Settings, postgres_hop: Any, store: Store, open_api: Any
) -> None:
    async with open_api(through) as api:
        for action in ("cancel", "retry"):
            task_id = (await api.post("/tasks/", json={"name": "echo"})).json()["id"]
            postgres_hop.swallow_replies = True
            answer = await api.post(f"/tasks/{task_id}/{action}")
            postgres_hop.swallow_replies = False
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:holdfast:problem:outcome-unknown"
            assert answer.json()["task_id"] == task_id


@pytest.mark.parametrize("failure", ["refused", "dumb"])
async def test_redis_outage_neither_fails_nor_delays_a_submit(
    settings: Settings, hop_to: HopTo, store: Store, open_api: Any, failure: str
) -> None:
    hop = await hop_to(settings.redis_url)
    hop.refuse = failure == "refused"
    hop.swallow_replies = failure == "dumb"
    update = {"redis_url": hop.url, "connect_timeout_seconds": 30.0}
    async with open_api(settings.model_copy(update=update)) as api, asyncio.timeout(10):
        for _ in range(20):
            assert (await api.post("/tasks/", json={"name": "echo"})).status_code == 201
    assert len((await store.list_tasks(TaskFilter(), 100))[0]) == 20


async def test_only_tasks_due_now_poke_the_schedulers(
    settings: Settings, hop_to: HopTo, store: Store, open_api: Any
) -> None:
    hop = await hop_to(settings.redis_url)
    poke = f"{settings.redis_prefix}:poke".encode()
    async with open_api(settings.model_copy(update={"redis_url": hop.url})) as api:
        later = {"name": "echo", "run_at": "2030-01-01T00:00:00Z"}
        assert (await api.post("/tasks/", json=later)).status_code == 201
        assert api._transport.app.state.services.wakeup._flight is None, "nothing is due"
        answers = await asyncio.gather(
            *(api.post("/tasks/", json={"name": "echo"}) for _ in range(50))
        )
        assert {answer.status_code for answer in answers} == {201}
        await until(lambda: any(poke in request for request in hop.requests))
    assert b"".join(hop.requests).count(poke) < 25, "fifty tasks, few pokes"


async def test_disconnected_client_loses_nothing_and_affects_no_other(
    served: str, store: Store
) -> None:
    host, port = served.removeprefix("http://").split(":")
    body = b'{"name": "echo"}'
    head = b"POST /tasks/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    complete = head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    for cut in (complete, complete[:-5]):
        for _ in range(5):
            _, writer = await asyncio.open_connection(host, port)
            writer.write(cut)
            await writer.drain()
            writer.transport.abort()
    async with httpx.AsyncClient(base_url=served) as client:
        answers = await asyncio.gather(
            *(client.post("/tasks/", json={"name": "echo"}) for _ in range(20))
        )
    assert {answer.status_code for answer in answers} == {201}
    stored = {task.id for task in (await store.list_tasks(TaskFilter(), 100))[0]}
    assert {UUID(answer.json()["id"]) for answer in answers} <= stored
    assert len(stored) <= 25, "a half request is none"


async def test_new_name_is_accepted_within_seconds(api: httpx.AsyncClient, store: Store) -> None:
    assert (await api.post("/tasks/", json={"name": "fresh"})).status_code == 422
    await store.register(new_id(), "worker-9", ["default"], [Announcement("fresh", None, None)])

    async def known() -> bool:
        return (await api.post("/tasks/", json={"name": "fresh"})).status_code == 201

    await until(known)


async def test_unknown_names_and_queues_cause_no_load(
    settings: Settings, postgres_hop: Any, through: Settings, store: Store, open_api: Any
) -> None:
    async with open_api(through) as api:
        await api.post("/tasks/", json={"name": "nonsense"})
        before = len(postgres_hop.requests)
        for n in range(50):
            await api.post("/tasks/", json={"name": f"nonsense{n}"})
            await api.post("/tasks/", json={"name": "echo", "queue": f"nonsense{n}"})
        assert len(postgres_hop.requests) - before < 50
