"""POST /tasks/: stored rows, responses, and idempotency keys."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from examples import examples
from holdfast.model.ids import new_id
from holdfast.model.request import TaskRequest
from holdfast.settings import Settings
from holdfast.store.store import Store

OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
SLOW = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)


def instant(text: str) -> datetime:
    assert text.endswith("Z"), f"{text} must say that it is UTC"
    return datetime.fromisoformat(text)


async def submit(api: httpx.AsyncClient, **members: Any) -> dict[str, Any]:
    answer = await api.post("/tasks/", json={"name": "echo", **members})
    assert answer.status_code == 201, answer.text
    task: dict[str, Any] = answer.json()
    return task


async def test_documented_request_is_accepted(api: httpx.AsyncClient) -> None:
    body = (
        '{"name": "send_email", "payload": {"to": "user@example.com"}, '
        '"run_at": "2026-01-09T10:00:00"}'
    )
    headers = {"Content-Type": "application/json"}
    answer = await api.post("/tasks/", content=body, headers=headers)
    assert answer.status_code == 201
    task = answer.json()
    assert answer.headers["Location"] == f"/tasks/{task['id']}"
    assert task["name"] == "send_email"
    assert task["payload"] == {"to": "user@example.com"}
    assert task["state"] == "SCHEDULED"
    assert task["run_at"] == "2026-01-09T10:00:00Z"
    read = await api.get(f"/tasks/{task['id']}")
    assert read.status_code == 200
    assert read.json() == task | {"attempts": []}


async def test_every_member_of_a_request_is_stored(api: httpx.AsyncClient) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    run_at = (datetime.now(UTC) + timedelta(hours=2)).replace(microsecond=123456)
    sent_body = {
        "name": "echo",
        "payload": {"größe": [1, -2.5, True, None, {"": "😀"}]},
        "run_at": run_at.isoformat(),
        "queue": "Mail-1",
        "priority": 9,
        "max_attempts": 1000,
        "timeout_seconds": 0.25,
    }
    headers = {"Idempotency-Key": "~!order-17", "traceparent": parent}
    task = (await api.post("/tasks/", json=sent_body, headers=headers)).json()
    for name in ("name", "payload", "queue", "priority", "max_attempts", "timeout_seconds"):
        assert task[name] == sent_body[name], name
    assert instant(task["run_at"]) == run_at == instant(task["due_at"])
    assert task["idempotency_key"] == "~!order-17"
    assert task["traceparent"] == parent


async def test_defaults(api: httpx.AsyncClient, settings: Settings) -> None:
    task = await submit(api)
    assert (task["payload"], task["queue"], task["priority"]) == ({}, "default", 0)
    assert task["max_attempts"] == settings.max_attempts
    assert task["timeout_seconds"] == settings.attempt_timeout_seconds
    assert task["due_at"] == task["created_at"]
    assert (task["epoch"], task["attempt"], task["cancel_requested"]) == (0, 0, False)
    assert task["result"] is None
    assert task["finished_at"] is None
    announced = await submit(api, name="send_email")
    assert (announced["max_attempts"], announced["timeout_seconds"]) == (7, 30.0)


async def test_submit_without_a_traceparent_starts_a_trace(api: httpx.AsyncClient) -> None:
    tasks = [await submit(api), await submit(api)]
    headers = {"traceparent": "00-00000000000000000000000000000000-00f067aa0ba902b7-01"}
    tasks.append((await api.post("/tasks/", json={"name": "echo"}, headers=headers)).json())
    traces = {task["traceparent"].split("-")[1] for task in tasks}
    assert len(traces) == 3, "each its own, and an invalid one is none"


async def test_run_at_in_the_past_is_due_now(api: httpx.AsyncClient) -> None:
    task = await submit(api, run_at="0001-01-01T00:00:00Z")
    assert task["due_at"] == task["created_at"]


@examples(25, suppress_health_check=SLOW)
@given(
    st.datetimes(
        min_value=datetime(1, 1, 3),  # noqa: DTZ001
        max_value=datetime(2030, 1, 1),  # noqa: DTZ001
        timezones=st.one_of(st.none(), OFFSETS),
    )
)
async def test_run_at_is_independent_of_its_offset(api: httpx.AsyncClient, when: datetime) -> None:
    task = await submit(api, run_at=when.isoformat())
    expected = when if when.tzinfo else when.replace(tzinfo=UTC)
    assert instant(task["run_at"]) == expected
    # The returned run_at can be submitted again and means the same time.
    again = TaskRequest(name="echo", run_at=task["run_at"])
    assert again.run_at == expected


async def test_idempotency_key_creates_one_task(api: httpx.AsyncClient, store: Store) -> None:
    headers = {"Idempotency-Key": "k"}
    body = {"name": "echo", "payload": {"a": 1, "b": 2}}
    first = await api.post("/tasks/", json=body, headers=headers)
    assert first.status_code == 201
    assert "Idempotent-Replayed" not in first.headers
    same = {"payload": {"b": 2, "a": 1}, "name": "echo", "queue": "default"}
    second = await api.post("/tasks/", json=same, headers=headers)
    assert second.status_code == 200
    assert second.headers["Idempotent-Replayed"] == "true"
    assert second.headers["Location"] == f"/tasks/{first.json()['id']}"
    assert second.json() == first.json()
    third = await api.post("/tasks/", json={**body, "idempotency_key": "k"})
    assert third.status_code == 200, "in the body it means the same as in the header"
    other = await api.post("/tasks/", json={"name": "echo", "payload": {"a": 2}}, headers=headers)
    assert other.status_code == 422
    assert other.json()["type"] == "urn:holdfast:problem:idempotency-key-reused"
    assert other.json()["task_id"] == first.json()["id"]
    listed = (await api.get("/tasks/")).json()["tasks"]
    assert [task["id"] for task in listed] == [first.json()["id"]]


async def test_different_keys_in_body_and_header_are_refused(api: httpx.AsyncClient) -> None:
    body = {"name": "echo", "idempotency_key": "a"}
    answer = await api.post("/tasks/", json=body, headers={"Idempotency-Key": "b"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/idempotency_key"


SENDS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1)), min_size=2, max_size=12)


@examples(25, suppress_health_check=SLOW)
@given(before=SENDS, sends=SENDS)
# Found by storm (seeds 30735, 31765): a repeat was refused with a conflicting one in its batch.
@example(before=[("a", 0), ("b", 0)], sends=[("a", 1), ("a", 0), ("b", 0), ("b", 1)])
async def test_concurrent_repeats_of_keys_create_one_task_each(
    api: httpx.AsyncClient, before: list[tuple[str, int]], sends: list[tuple[str, int]]
) -> None:
    """Requests are sent concurrently: some share a statement, and one per key wins."""
    salt = new_id()

    async def send(key: str, variant: int) -> httpx.Response:
        body = {"name": "echo", "payload": {"variant": variant}}
        return await api.post("/tasks/", json=body, headers={"Idempotency-Key": f"{key}-{salt}"})

    answers = [
        answer
        for wave in (before, sends)
        for answer in await asyncio.gather(*(send(key, variant) for key, variant in wave))
    ]
    sends = before + sends
    for key in {key for key, _ in sends}:
        mine = [
            (variant, answer)
            for (sent, variant), answer in zip(sends, answers, strict=True)
            if sent == key
        ]
        winners = [(v, a.json()["id"]) for v, a in mine if a.status_code == 201]
        assert len(winners) == 1
        variant, task_id = winners[0]
        for sent, answer in mine:
            assert answer.status_code in ({200, 201} if sent == variant else {422})
            assert answer.json()["id" if sent == variant else "task_id"] == task_id


async def test_trailing_slash_needs_no_redirect(api: httpx.AsyncClient) -> None:
    for slash in ("", "/"):
        assert (await api.post(f"/tasks{slash}", json={"name": "echo"})).status_code == 201
        assert (await api.get(f"/tasks{slash}")).status_code == 200
        batch = {"tasks": [{"name": "echo"}]}
        assert (await api.post(f"/tasks/batch{slash}", json=batch)).status_code == 200


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": "echo", "payload": [1]}, "/payload"),
    ({"name": "echo", "payload": None}, "/payload"),
    ({"name": "echo", "payload": "text"}, "/payload"),
    ({}, "/name"),
    ({"name": 7}, "/name"),
    ({"name": ""}, "/name"),
    ({"name": "has space"}, "/name"),
    ({"name": "echo\n"}, "/name"),
    ({"name": "echo", "priority": 10}, "/priority"),
    ({"name": "echo", "priority": -1}, "/priority"),
    ({"name": "echo", "priority": "5"}, "/priority"),
    ({"name": "echo", "priority": True}, "/priority"),
    ({"name": "echo", "queue": "a:b"}, "/queue"),
    ({"name": "echo", "queue": "x" * 65}, "/queue"),
    ({"name": "echo", "max_attempts": 0}, "/max_attempts"),
    ({"name": "echo", "max_attempts": 1001}, "/max_attempts"),
    ({"name": "echo", "timeout_seconds": 0}, "/timeout_seconds"),
    ({"name": "echo", "timeout_seconds": 1e9}, "/timeout_seconds"),
    ({"name": "echo", "run_at": "tomorrow"}, "/run_at"),
    ({"name": "echo", "run_at": 1767952800}, "/run_at"),
    ({"name": "echo", "run_at": "1767952800"}, "/run_at"),
    ({"name": "echo", "run_at": "2026-01-09"}, "/run_at"),
    ({"name": "echo", "run_at": "2026-13-09T10:00:00Z"}, "/run_at"),
    ({"name": "echo", "run_at": "9999-12-31T23:59:59-10:00"}, "/run_at"),
    ({"name": "echo", "run_at": "9999-12-31T23:59:59Z"}, "/run_at"),
    ({"name": "echo", "delay": 5}, "/delay"),
    ({"name": "echo", "a/b~c": 5}, "/a~1b~0c"),
    ({"name": "echo", "idempotency_key": "ä"}, "/idempotency_key"),
]


async def test_invalid_members_are_named(api: httpx.AsyncClient) -> None:
    for body, pointer in REFUSED:
        answer = await api.post("/tasks/", json=body)
        assert answer.status_code == 422, body
        assert answer.headers["Content-Type"] == "application/problem+json"
        problem = answer.json()
        assert problem["type"] == "urn:holdfast:problem:invalid-request", body
        assert problem["status"] == 422
        assert problem["instance"] == "/tasks/"
        assert problem["errors"][0]["pointer"] == pointer, body
        assert problem["errors"][0]["detail"] in problem["detail"]
    assert (await api.get("/tasks/")).json()["tasks"] == []


async def test_invalid_keys_are_refused(api: httpx.AsyncClient) -> None:
    for key in (b"", b"has space", b"x" * 256, b"tab\tbed", b"\xe4"):
        headers = [(b"Idempotency-Key", key)]
        answer = await api.post("/tasks/", json={"name": "echo"}, headers=headers)
        assert answer.status_code == 422, key
        assert answer.json()["errors"][0]["header"] == "Idempotency-Key"


async def test_unannounced_name_is_refused_with_the_known_names(
    api: httpx.AsyncClient,
) -> None:
    answer = await api.post("/tasks/", json={"name": "send_emial"})
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["type"] == "urn:holdfast:problem:unknown-name"
    assert problem["known_names"] == ["echo", "send_email"]
    for part in ("send_emial", "send_email", "HOLDFAST_ACCEPT_UNKNOWN_NAMES"):
        assert part in problem["detail"]


async def test_unknown_names_are_accepted_if_configured(
    settings: Settings, store: Store, open_api: Any
) -> None:
    async with open_api(settings.model_copy(update={"accept_unknown_names": True})) as api:
        assert (await api.post("/tasks/", json={"name": "later"})).status_code == 201


async def test_run_at_horizon_is_configurable(
    settings: Settings, store: Store, open_api: Any
) -> None:
    async with open_api(settings.model_copy(update={"run_at_horizon_days": 2})) as api:
        near = (datetime.now(UTC) + timedelta(days=1, hours=23)).isoformat()
        far = (datetime.now(UTC) + timedelta(days=2, hours=1)).isoformat()
        assert (await api.post("/tasks/", json={"name": "echo", "run_at": near})).status_code == 201
        answer = await api.post("/tasks/", json={"name": "echo", "run_at": far})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/run_at"
    assert "HOLDFAST_RUN_AT_HORIZON_DAYS" in answer.json()["detail"]
