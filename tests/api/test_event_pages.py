"""GET /tasks/{id}/events in pages; GET /tasks/{id} with a bounded number of attempts."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from holdfast.settings import Settings

TURNS = 400  # dispatched, claimed, handed back
_TURNS = """
INSERT INTO task_events (task_id, seq, at, from_state, to_state, epoch, attempt, actor, reason)
SELECT %(id)s::uuid, 2 + 3 * turn + step, clock_timestamp(), before, after, 2 * turn + up, turn + n,
  'worker:' || %(worker)s, reason
FROM generate_series(0, %(turns)s - 1) AS turn, (VALUES
  (0, 'SCHEDULED', 'QUEUED', 0, 0, 'dispatched'), (1, 'QUEUED', 'RUNNING', 1, 1, 'claimed'),
  (2, 'RUNNING', 'SCHEDULED', 2, 1, 'handed_back')) AS v(step, before, after, up, n, reason)
UNION ALL
SELECT %(id)s::uuid, 2 + 3 * %(turns)s, clock_timestamp(), 'SCHEDULED', 'QUEUED', 2 * %(turns)s,
  %(turns)s, 'scheduler', 'dispatched'"""
EVENTS = 1 + 3 * TURNS + 1


@pytest.fixture
async def task_id(api: httpx.AsyncClient, settings: Settings) -> UUID:
    """A task that was handed back 400 times, and is queued again."""
    task = (await api.post("/tasks/", json={"name": "echo"})).json()
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute(_TURNS, {"id": task["id"], "worker": str(uuid4()), "turns": TURNS})
    return UUID(task["id"])


async def pages(api: httpx.AsyncClient, path: str, **query: Any) -> list[dict[str, Any]]:
    """Return the bodies of all pages, following the links."""
    found = []
    answer = await api.get(path, params=query)
    while True:
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
        if (link := answer.links.get("next")) is None:
            assert found[-1]["next_cursor"] is None
            return found
        answer = await api.get(link["url"])


@pytest.mark.parametrize(("query", "sizes"), [({}, [100] * 12 + [2]), ({"limit": 700}, [700, 502])])
async def test_pages_have_every_event_once_in_order(
    api: httpx.AsyncClient, task_id: UUID, query: dict[str, int], sizes: list[int]
) -> None:
    found = await pages(api, f"/tasks/{task_id}/events", **query)
    assert [len(page["events"]) for page in found] == sizes
    events = [event for page in found for event in page["events"]]
    assert [event["seq"] for event in events] == list(range(1, EVENTS + 1))


_LARGE = """UPDATE task_events SET detail = jsonb_build_object('error', jsonb_build_object(
  'type', 'Large', 'message', repeat('x', 32768), 'traceback', '')) WHERE reason = 'handed_back'"""


async def test_page_ends_when_its_details_have_a_mebibyte(
    api: httpx.AsyncClient, task_id: UUID, settings: Settings
) -> None:
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute(_LARGE)
    found = await pages(api, f"/tasks/{task_id}/events", limit=1000)
    assert [len(page["events"]) for page in found] == [97] + [96] * 11 + [49]
    events = [event for page in found for event in page["events"]]
    assert [event["seq"] for event in events] == list(range(1, EVENTS + 1))
    details = [event["detail"] for event in events if event["reason"] == "handed back"]
    assert len(details) == TURNS
    assert {len(detail["error"]["message"]) for detail in details} == {32768}
    task = (await api.get(f"/tasks/{task_id}")).json()
    assert [attempt["attempt"] for attempt in task["attempts"]] == list(range(370, 401))


async def test_page_that_ends_with_the_last_event_is_the_last(
    api: httpx.AsyncClient, task_id: UUID
) -> None:
    halves = await pages(api, f"/tasks/{task_id}/events", limit=EVENTS // 2)
    assert [len(page["events"]) for page in halves] == [EVENTS // 2] * 2


async def test_limit_is_bounded_and_cursor_belongs_to_the_task(
    api: httpx.AsyncClient, task_id: UUID
) -> None:
    path = f"/tasks/{task_id}/events"
    for limit in (0, 1001):
        assert (await api.get(path, params={"limit": limit})).status_code == 422
    assert (await api.get(path, params={"page": 2})).status_code == 422
    other = (await api.post("/tasks/", json={"name": "echo"})).json()["id"]
    cursor = (await api.get(path)).json()["next_cursor"]
    listing = (await api.get("/tasks/", params={"limit": 1})).json()["next_cursor"]
    for wrong, where in (
        (cursor, other),
        (listing, task_id),
        ("AAAA", task_id),
        ("\u00e9", task_id),
    ):
        answer = await api.get(f"/tasks/{where}/events", params={"cursor": wrong})
        assert answer.status_code == 400, wrong
        assert answer.json()["type"] == "urn:holdfast:problem:invalid-cursor"
    assert (await api.get(f"/tasks/{uuid4()}/events")).status_code == 404


async def test_task_shows_the_attempts_of_its_latest_events(
    api: httpx.AsyncClient, task_id: UUID
) -> None:
    task = (await api.get(f"/tasks/{task_id}")).json()
    numbers = [attempt["attempt"] for attempt in task["attempts"]]
    # 500 events: the first of them ends an attempt that began before them.
    assert numbers == list(range(TURNS - 165, TURNS + 1))
    assert {attempt["outcome"] for attempt in task["attempts"]} == {"handed back"}
    assert all(attempt["started_at"] <= attempt["ended_at"] for attempt in task["attempts"])
