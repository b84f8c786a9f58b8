"""POST /tasks/batch: each task is validated and stored separately."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import httpx

from holdfast.settings import Settings
from holdfast.store.store import Store


async def test_valid_tasks_are_stored_and_invalid_ones_reported(api: httpx.AsyncClient) -> None:
    items: list[Any] = [
        {"name": "echo", "payload": {"n": 0}},
        {"name": "echo", "priority": 99},
        {"name": "nobody"},
        {"name": "echo", "payload": {"list": ["fine", "\0"]}},
        "not even an object",
        {"name": "echo", "run_at": "9000-01-01T00:00:00Z"},
        {"name": "echo", "payload": {"n": 6}, "idempotency_key": "k"},
        {"name": "echo", "payload": {"n": 6}, "idempotency_key": "k"},
        {"name": "echo", "payload": {"n": 8}, "idempotency_key": "k"},
    ]
    answer = await api.post("/tasks/batch", json={"tasks": items})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["index"] for result in results] == list(range(9))
    assert [result["status"] for result in results] == [
        *(201, 422, 422, 422, 422, 422, 201, 200, 422)
    ]
    for result in results:
        assert (result["task"] is None) == (result["status"] >= 400)
        assert (result["problem"] is None) == (result["status"] < 400)
    pointers = [r["problem"].get("errors", [{}])[0].get("pointer") for r in results if r["problem"]]
    assert pointers == [
        "/tasks/1/priority",
        "/tasks/2/name",
        "/tasks/3/payload/list/1",
        "/tasks/4",
        "/tasks/5/run_at",
        None,
    ]
    assert results[6]["task"]["id"] == results[7]["task"]["id"]
    assert results[8]["problem"]["task_id"] == results[6]["task"]["id"]
    listed = (await api.get("/tasks/")).json()["tasks"]
    assert sorted(task["payload"]["n"] for task in listed) == [0, 6]


async def test_batch_of_a_thousand_different_tasks(api: httpx.AsyncClient, store: Store) -> None:
    await store.announce_queues([f"queue_{n}" for n in range(1000)])
    items = [
        {
            "name": "echo",
            "payload": {"n": n, f"key {n}": [n / 7]},
            "queue": f"queue_{n}",
            "priority": n % 10,
            "run_at": f"2026-01-09T{n % 24:02d}:00:00.{n:06d}Z",
            "max_attempts": n + 1,
            "timeout_seconds": n + 0.5,
            "idempotency_key": f"key-{n}",
        }
        for n in range(1000)
    ]
    results = (await api.post("/tasks/batch", json={"tasks": items})).json()["results"]
    assert [result["index"] for result in results] == list(range(1000))
    assert {result["status"] for result in results} == {201}
    for item, result in zip(items, results, strict=True):
        asked = item | {"run_at": datetime.fromisoformat(str(item["run_at"]))}
        stored = result["task"] | {"run_at": datetime.fromisoformat(result["task"]["run_at"])}
        assert {name: stored[name] for name in asked} == asked
    again = (await api.post("/tasks/batch", json={"tasks": items[::-1]})).json()["results"]
    assert {result["status"] for result in again} == {200}
    assert [result["task"]["id"] for result in again[::-1]] == [r["task"]["id"] for r in results]


async def test_batch_itself_is_validated_first(api: httpx.AsyncClient) -> None:
    bodies: list[Any] = [{"tasks": []}, {"tasks": [{"name": "echo"}] * 1001}, {"tasks": {}}, {}, []]
    for body in bodies:
        answer = await api.post("/tasks/batch", json=body)
        assert answer.status_code == 422, body
        assert answer.headers["Content-Type"] == "application/problem+json"
    extra = await api.post("/tasks/batch", json={"tasks": [{"name": "echo"}], "atomic": True})
    assert extra.json()["errors"][0]["pointer"] == "/atomic"
    assert (await api.get("/tasks/")).json()["tasks"] == []


async def test_batch_has_a_higher_size_limit_than_its_items(
    settings: Settings, store: Store, open_api: Any
) -> None:
    small = settings.model_copy(update={"body_bytes_max": 1000, "batch_bytes_max": 5000})
    fits = {"name": "echo", "payload": {"a": "x" * 900}}
    long = {"name": "echo", "payload": {"a": "x" * 1000}}
    async with open_api(small) as api:
        answer = await api.post("/tasks/batch", json={"tasks": [fits, long, fits]})
        assert [result["status"] for result in answer.json()["results"]] == [201, 413, 201]
        assert (await api.post("/tasks/batch", json={"tasks": [fits] * 6})).status_code == 413
        assert (await api.post("/tasks/", json=long)).status_code == 413


async def test_repeats_show_the_stored_payload_and_conflicts_none(api: httpx.AsyncClient) -> None:
    """A payload is read from the database only for a request that had it: it may be large."""
    first = {"name": "echo", "payload": {"n": 1}, "idempotency_key": "k"}
    other = {**first, "payload": {"n": 2}}
    stored = (await api.post("/tasks/", json=first)).json()
    results = (await api.post("/tasks/batch", json={"tasks": [other, first, other]})).json()
    statuses = [result["status"] for result in results["results"]]
    assert statuses == [422, 200, 422]
    assert results["results"][1]["task"]["payload"] == stored["payload"] == {"n": 1}


async def test_errors_of_many_faulty_tasks_are_bounded(api: httpx.AsyncClient) -> None:
    faulty = {"name": "echo", **{f"field {n}": n for n in range(40)}}
    crowded = {"name": "echo", **{f"field {n}": n for n in range(60)}}
    answer = await api.post("/tasks/batch", json={"tasks": [faulty, crowded]})
    many, refused = (result["problem"] for result in answer.json()["results"])
    assert len(many["errors"]) == 10
    assert "and 39 more" in many["detail"]
    assert [error["pointer"] for error in refused["errors"]] == ["/tasks/1"]
    assert "61 members" in refused["detail"]
