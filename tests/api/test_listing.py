"""GET /tasks/: filters, pages, and cursors bound to their listing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.api import cursor
from holdfast.model.lifecycle import State
from holdfast.model.task import TaskFilter
from holdfast.store.store import Store

INSTANTS = st.none() | st.datetimes(timezones=st.just(UTC))
FILTERS = st.builds(
    TaskFilter,
    states=st.lists(st.sampled_from(State), max_size=3).map(tuple),
    name=st.none() | st.text(max_size=5),
    queue=st.none() | st.text(max_size=5),
    created_after=INSTANTS,
    created_before=INSTANTS,
    run_after=INSTANTS,
    run_before=INSTANTS,
)


@given(FILTERS, st.uuids())
def test_cursor_decodes_to_its_id(task_filter: TaskFilter, last: UUID) -> None:
    assert cursor.decode(task_filter, cursor.encode(task_filter, last)) == last


@given(FILTERS, FILTERS, st.uuids())
def test_cursor_is_refused_with_another_filter(
    one: TaskFilter, other: TaskFilter, last: UUID
) -> None:
    made = cursor.encode(one, last)
    same = one == other or (set(one.states) == set(other.states) and _rest(one) == _rest(other))
    if same:
        assert cursor.decode(other, made) == last
    else:
        with pytest.raises(cursor.InvalidCursor):
            cursor.decode(other, made)


def _rest(task_filter: TaskFilter) -> tuple[object, ...]:
    """All of a filter except its states, whose order is irrelevant."""
    named = (task_filter.name, task_filter.queue)
    created = (task_filter.created_after, task_filter.created_before)
    return (*named, *created, task_filter.run_after, task_filter.run_before)


@given(st.text(max_size=60) | st.binary(max_size=40).map(lambda raw: raw.hex()))
def test_garbage_is_an_invalid_cursor(garbage: str) -> None:
    with pytest.raises(cursor.InvalidCursor):
        cursor.decode(TaskFilter(), garbage)


async def fill(api: httpx.AsyncClient, items: list[dict[str, Any]]) -> list[str]:
    """Submit the items; return their ids in the same order."""
    answer = await api.post("/tasks/batch", json={"tasks": [{"name": "echo", **i} for i in items]})
    return [result["task"]["id"] for result in answer.json()["results"]]


async def walk(api: httpx.AsyncClient, **query: Any) -> list[list[str]]:
    """Return the ids of each page; the cursor and the Link header must agree."""
    pages: list[list[str]] = []
    answer = await api.get("/tasks/", params=query)
    while True:
        assert answer.status_code == 200, answer.text
        page = answer.json()
        pages.append([task["id"] for task in page["tasks"]])
        if page["next_cursor"] is None:
            assert "Link" not in answer.headers
            return pages
        link = answer.links["next"]
        assert link["rel"] == "next"
        assert page["next_cursor"] in link["url"]
        answer = await api.get(link["url"])


async def test_pages_are_disjoint_complete_and_newest_first(api: httpx.AsyncClient) -> None:
    ids = await fill(api, [{"payload": {"n": n}} for n in range(25)])
    pages = await walk(api, limit=10)
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [task_id for page in pages for task_id in page] == sorted(ids, reverse=True)
    assert [len(page) for page in await walk(api, limit=25)] == [25], "no empty last page"


async def test_tasks_created_meanwhile_do_not_shift_pages(api: httpx.AsyncClient) -> None:
    ids = await fill(api, [{} for _ in range(6)])
    first = (await api.get("/tasks/", params={"limit": 3})).json()
    # UUIDv7: an id created in a later millisecond sorts later.
    await asyncio.sleep(0.005)
    await fill(api, [{} for _ in range(3)])
    query = {"limit": 3, "cursor": first["next_cursor"]}
    second = (await api.get("/tasks/", params=query)).json()
    assert [task["id"] for task in first["tasks"] + second["tasks"]] == sorted(ids, reverse=True)


async def test_filters(api: httpx.AsyncClient, store: Store) -> None:
    now = datetime.now(UTC)
    items: list[dict[str, Any]] = [
        {"queue": "a"},
        {"queue": "b", "name": "send_email"},
        {"queue": "b", "run_at": (now + timedelta(hours=1)).isoformat()},
        {"queue": "b", "run_at": (now + timedelta(hours=3)).isoformat()},
    ]
    a, mail, one, three = await fill(api, items)
    await store.cancel([UUID(a)], "test")
    created = {i: (await api.get(f"/tasks/{i}")).json()["created_at"] for i in (a, mail)}

    async def found(**query: Any) -> set[str]:
        return {task_id for page in await walk(api, limit=2, **query) for task_id in page}

    two_hours = (now + timedelta(hours=2)).isoformat()
    assert await found() == {a, mail, one, three}
    assert await found(state="CANCELLED") == {a}
    assert await found(state=["CANCELLED", "SCHEDULED"]) == {a, mail, one, three}
    assert await found(state="RUNNING") == set()
    assert await found(queue="b") == {mail, one, three}
    assert await found(queue="b", name="echo") == {one, three}
    assert await found(run_after=two_hours) == {three}
    assert await found(run_before=two_hours) == {a, mail, one}
    assert await found(created_after=created[a]) >= {a}
    assert await found(created_before=created[a]) == set()
    assert await found(created_before="2200-01-01T00:00:00") == {a, mail, one, three}
    assert await found(created_after="2200-01-01T00:00:00Z") == set()


async def test_listing_omits_results_and_attempts(api: httpx.AsyncClient) -> None:
    [task_id] = await fill(api, [{}])
    [listed] = (await api.get("/tasks/")).json()["tasks"]
    read = (await api.get(f"/tasks/{task_id}")).json()
    assert listed.keys() == read.keys(), "one shape"
    assert (listed["attempts"], read["attempts"]) == (None, [])


BAD_QUERIES = [
    ("limit=0", "limit"),
    ("limit=1001", "limit"),
    ("limit=x", "limit"),
    ("state=DONE", "state"),
    ("name=%00", "name"),
    ("queue=%00", "queue"),
    ("created_after=yesterday", "created_after"),
    ("run_before=1767952800", "run_before"),
    ("stat=RUNNING", "stat"),
]


async def test_invalid_queries_are_reported(api: httpx.AsyncClient) -> None:
    for query, parameter in BAD_QUERIES:
        answer = await api.get(f"/tasks/?{query}")
        assert answer.status_code == 422, query
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["errors"][0]["parameter"] == parameter


async def test_cursor_of_another_listing_is_refused(api: httpx.AsyncClient) -> None:
    await fill(api, [{} for _ in range(3)])
    page = (await api.get("/tasks/", params={"limit": 1, "queue": "default"})).json()
    for query in (
        {"cursor": page["next_cursor"]},
        {"cursor": page["next_cursor"], "queue": "other"},
        {"cursor": "nonsense"},
        {"cursor": "ä"},
    ):
        answer = await api.get("/tasks/", params=query)
        assert answer.status_code == 400
        assert answer.json()["type"] == "urn:holdfast:problem:invalid-cursor"
    query = {"cursor": page["next_cursor"], "queue": "default", "limit": "2"}
    rest = await api.get("/tasks/", params=query)
    assert len(rest.json()["tasks"]) == 2, "the limit may change from page to page"


async def test_a_page_of_large_payloads_ends_early(api: httpx.AsyncClient) -> None:
    for n in range(8):
        body = {"name": "echo", "payload": {"n": n, "a": "x" * (400_000 if n != 3 else 1_000_000)}}
        assert (await api.post("/tasks/", json=body)).status_code == 201
    pages, cursor = [], None
    while True:
        page = (await api.get("/tasks/", params={"cursor": cursor} if cursor else {})).json()
        pages.append([task["payload"]["n"] for task in page["tasks"]])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    # A page ends with the task whose payload fills the mebibyte, and the last one has no cursor.
    assert pages == [[7, 6, 5], [4, 3], [2, 1, 0]]
