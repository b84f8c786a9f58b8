"""Cancel, retry, and the attempts that GET shows, driven by real transitions of the store."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import httpx
import pytest

from holdfast.model.claim import Failure, Grant, Success
from holdfast.model.ids import new_id
from holdfast.model.lifecycle import Reason
from holdfast.store.store import Store

WORKER = new_id()


@pytest.fixture(autouse=True)
async def worker(store: Store) -> None:
    await store.register(WORKER, "worker-2", ["default"], [])


async def submit(api: httpx.AsyncClient, **members: Any) -> UUID:
    return UUID((await api.post("/tasks/", json={"name": "echo", **members})).json()["id"])


async def claim(store: Store, task_id: UUID) -> Grant:
    """Dispatch due tasks and claim this one."""
    hints = [hint for hint in (await store.dispatch(10, "test")).tasks if hint.task_id == task_id]
    [grant] = (await store.claim(hints, WORKER, new_id())).grants
    return grant


async def fail(store: Store, grant: Grant, reason: Reason = Reason.FAILED) -> None:
    error = {"type": "ValueError", "message": "no such user", "traceback": "line 1\nline 2"}
    detail = json.dumps({"error": error})
    failure = Failure(grant.task_id, grant.epoch, reason, 0.0, detail)
    [answer] = await store.release([failure], WORKER)
    assert answer.done


async def state(api: httpx.AsyncClient, task_id: UUID) -> dict[str, Any]:
    task: dict[str, Any] = (await api.get(f"/tasks/{task_id}")).json()
    return task


async def test_waiting_task_is_cancelled_immediately_and_idempotently(
    api: httpx.AsyncClient, store: Store
) -> None:
    for queued in (False, True):
        task_id = await submit(api)
        if queued:
            await store.dispatch(10, "test")
        for _ in range(2):
            answer = await api.post(f"/tasks/{task_id}/cancel")
            assert answer.status_code == 200
            assert answer.json()["state"] == "CANCELLED"
            assert answer.json() == await state(api, task_id)
        assert len((await store.get(task_id)).events) == 2 + queued  # type: ignore[union-attr]


async def test_cancel_of_a_running_task_is_a_request(api: httpx.AsyncClient, store: Store) -> None:
    task_id = await submit(api)
    grant = await claim(store, task_id)
    for _ in range(2):
        answer = await api.post(f"/tasks/{task_id}/cancel")
        assert answer.status_code == 202
        assert answer.json()["state"] == "RUNNING"
        assert answer.json()["cancel_requested"] is True
    await store.finish([Success(task_id, grant.epoch, '"too late"')], WORKER)
    assert (await state(api, task_id))["state"] == "SUCCEEDED"
    late = await api.post(f"/tasks/{task_id}/cancel")
    assert late.status_code == 409
    assert late.json()["type"] == "urn:holdfast:problem:state-conflict"
    assert late.json()["state"] == "SUCCEEDED"


async def test_dead_letter_is_retried(api: httpx.AsyncClient, store: Store) -> None:
    task_id = await submit(api, max_attempts=1)
    early = await api.post(f"/tasks/{task_id}/retry")
    assert (early.status_code, early.json()["state"]) == (409, "SCHEDULED")
    await fail(store, await claim(store, task_id))
    assert (await state(api, task_id))["state"] == "FAILED"
    answer = await api.post(f"/tasks/{task_id}/retry")
    assert answer.status_code == 200
    task = answer.json()
    assert (task["state"], task["attempt"], task["max_attempts"]) == ("SCHEDULED", 1, 2)
    again = await api.post(f"/tasks/{task_id}/retry")
    assert again.status_code == 409
    grant = await claim(store, task_id)
    await store.finish([Success(task_id, grant.epoch, '{"n": 1}')], WORKER)
    done = await state(api, task_id)
    assert (done["state"], done["result"]) == ("SUCCEEDED", {"n": 1})


async def test_attempts_show_their_outcomes(api: httpx.AsyncClient, store: Store) -> None:
    task_id = await submit(api)
    await fail(store, await claim(store, task_id))
    await fail(store, await claim(store, task_id), Reason.RELEASED)
    grant = await claim(store, task_id)
    running = (await state(api, task_id))["attempts"]
    assert [attempt["outcome"] for attempt in running] == ["failed", "handed back", None]
    assert running[2]["ended_at"] is None
    await api.post(f"/tasks/{task_id}/cancel")
    assert (await state(api, task_id))["attempts"] == running, "a request ends nothing"
    await store.finish([Success(task_id, grant.epoch, "[1, null]")], WORKER)
    task = await state(api, task_id)
    assert task["result"] == [1, None]
    attempts = task["attempts"]
    assert [attempt["attempt"] for attempt in attempts] == [1, 2, 3]
    assert [attempt["epoch"] for attempt in attempts] == [1, 3, 5]
    assert {attempt["worker"] for attempt in attempts} == {str(WORKER)}
    assert attempts[0]["error"] == {
        "type": "ValueError",
        "message": "no such user",
        "traceback": "line 1\nline 2",
    }
    assert attempts[2]["error"] is None
    instants = [attempt[key] for attempt in attempts for key in ("started_at", "ended_at")]
    assert instants == sorted(instants)
    assert all(instant.endswith("Z") for instant in instants)


async def test_events_show_every_transition(api: httpx.AsyncClient, store: Store) -> None:
    task_id = await submit(api)
    grant = await claim(store, task_id)
    await store.finish([Success(task_id, grant.epoch, "null")], WORKER)
    events = (await api.get(f"/tasks/{task_id}/events")).json()["events"]
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    assert [(event["from_state"], event["to_state"], event["reason"]) for event in events] == [
        (None, "SCHEDULED", "submitted"),
        ("SCHEDULED", "QUEUED", "dispatched"),
        ("QUEUED", "RUNNING", "claimed"),
        ("RUNNING", "SUCCEEDED", "succeeded"),
    ]
    assert events[0]["actor"].startswith("api:")
    assert events[2]["actor"] == f"worker:{WORKER}"
    assert all(event["at"].endswith("Z") for event in events)


async def test_unknown_tasks_are_not_found(api: httpx.AsyncClient) -> None:
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/retry")):
        missing = await api.request(method, f"/tasks/{new_id()}{path}")
        assert missing.status_code == 404
        assert missing.json()["type"] == "urn:holdfast:problem:not-found"
        malformed = await api.request(method, f"/tasks/no-uuid{path}")
        assert malformed.status_code == 422
        assert malformed.json()["errors"][0]["parameter"] == "task_id"
