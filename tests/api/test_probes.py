"""/healthz, /readyz and /metrics."""

from __future__ import annotations

from typing import Any

import httpx

from holdfast.settings import Settings


async def test_ready_and_healthy(api: httpx.AsyncClient) -> None:
    assert (await api.get("/healthz")).json() == {"status": "ok"}
    assert (await api.get("/readyz")).json() == {"status": "ready"}


async def test_unmigrated_database_is_not_ready_with_advice(
    empty_database_url: str, redis_url: str, open_api: Any
) -> None:
    empty = Settings(database_url=empty_database_url, redis_url=redis_url)
    async with open_api(empty) as api:
        answer = await api.get("/readyz")
        assert answer.status_code == 503
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:holdfast:problem:not-ready"
        assert "holdfast migrate" in answer.json()["detail"]
        submit = await api.post("/tasks/", json={"name": "echo"})
        assert submit.status_code == 503
        assert "holdfast migrate" in submit.json()["detail"]


async def test_metrics_count_by_route_and_outcome(api: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k"}
    task = (await api.post("/tasks/", json={"name": "echo"}, headers=headers)).json()
    await api.post("/tasks/", json={"name": "echo"}, headers=headers)
    await api.get(f"/tasks/{task['id']}")
    await api.get("/wp-admin")
    await api.request("INVENTED", "/tasks/")
    text = (await api.get("/metrics")).text
    for line in (
        'holdfast_tasks_submitted_total{outcome="created",queue="default"} 1.0',
        'holdfast_tasks_submitted_total{outcome="existing",queue="default"} 1.0',
        'holdfast_http_requests_total{method="POST",route="/tasks/",status="201"} 1.0',
        'holdfast_http_requests_total{method="GET",route="/tasks/{task_id}",status="200"} 1.0',
        'holdfast_http_requests_total{method="GET",route="unmatched",status="404"} 1.0',
        'holdfast_http_requests_total{method="OTHER",route="/tasks/",status="405"} 1.0',
    ):
        assert line in text
    assert task["id"] not in text, "labels are bounded"


async def test_cancel_is_counted_once_by_the_process_that_made_it(api: httpx.AsyncClient) -> None:
    task = (await api.post("/tasks/", json={"name": "echo", "queue": "slow"})).json()
    for _ in range(2):
        assert (await api.post(f"/tasks/{task['id']}/cancel")).status_code == 200
    text = (await api.get("/metrics")).text
    assert 'holdfast_tasks_finished_total{outcome="cancelled",queue="slow"} 1.0' in text
    assert 'holdfast_tasks_submitted_total{outcome="created",queue="slow"} 1.0' in text


async def test_two_apis_in_one_process_share_nothing(settings: Settings, open_api: Any) -> None:
    async with open_api(settings) as one, open_api(settings) as other:
        await one.get("/nothing")
        assert 'status="404"' in (await one.get("/metrics")).text
        assert 'status="404"' not in (await other.get("/metrics")).text
