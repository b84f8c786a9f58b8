"""Enqueue inside the caller's transaction, with a sync and with an async driver."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from holdfast.client import IdempotencyKeyReused, enqueue, enqueue_many
from holdfast.errors import UnknownQueue
from holdfast.model.claim import Announcement
from holdfast.model.ids import new_id
from holdfast.model.lifecycle import Reason, State
from holdfast.model.payload import PayloadError
from holdfast.model.request import TaskRequest
from holdfast.settings import Settings
from holdfast.store.store import Store


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    yield engine
    engine.dispose()


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    store = Store(settings, connections=2, application_name="test")
    yield store
    await store.close()


async def test_commit_makes_task_visible_with_its_arguments(engine: Engine, store: Store) -> None:
    run_at = datetime.now(UTC) + timedelta(hours=1)
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await store.register(new_id(), "worker-1", ["mail"], [])
    with engine.begin() as connection:
        task_id = enqueue(
            connection,
            "send_email",
            {"to": "user@example.com", "größe": [1, 2.5, None]},
            run_at=run_at,
            queue="mail",
            priority=3,
            max_attempts=2,
            timeout_seconds=1.5,
            idempotency_key="k",
            traceparent=parent,
        )
    story = await store.get(task_id)
    assert story is not None
    task = story.task
    assert json.loads(task.payload) == {"to": "user@example.com", "größe": [1, 2.5, None]}
    assert (task.name, task.queue, task.priority) == ("send_email", "mail", 3)
    assert (task.max_attempts, task.timeout_seconds) == (2, 1.5)
    assert (task.idempotency_key, task.traceparent) == ("k", parent)
    assert task.run_at == run_at
    assert task.state is State.SCHEDULED
    assert [event.reason for event in story.events] == [Reason.SUBMITTED]


async def test_rollback_leaves_nothing(engine: Engine, store: Store) -> None:
    with engine.connect() as connection:
        task_id = enqueue(connection, "echo")
        connection.rollback()
    assert await store.get(task_id) is None
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM tasks")) == 0
        assert connection.scalar(text("SELECT count(*) FROM task_events")) == 0


async def test_async_caller_enqueues_in_its_transaction(settings: Settings, store: Store) -> None:
    engine = create_async_engine(
        settings.database_url.replace("postgresql:", "postgresql+asyncpg:")
    )
    try:
        async with engine.begin() as connection:
            kept: UUID = await connection.run_sync(enqueue, "echo", {"n": 1})
        async with engine.connect() as connection:
            dropped: UUID = await connection.run_sync(enqueue, "echo", {"n": 2})
            await connection.rollback()
    finally:
        await engine.dispose()
    story = await store.get(kept)
    assert story is not None
    assert json.loads(story.task.payload) == {"n": 1}
    assert await store.get(dropped) is None


def test_reused_key_returns_id_of_first_task(engine: Engine) -> None:
    with engine.begin() as connection:
        first = enqueue(connection, "echo", {"a": 1, "b": 2}, idempotency_key="k")
        assert enqueue(connection, "echo", {"b": 2, "a": 1}, idempotency_key="k") == first
    with engine.begin() as connection:
        assert enqueue(connection, "echo", {"a": 1, "b": 2}, idempotency_key="k") == first
        assert connection.scalar(text("SELECT count(*) FROM tasks")) == 1


def test_reused_key_with_other_request_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        first = enqueue(connection, "echo", {"a": 1}, idempotency_key="k")
    with engine.connect() as connection, pytest.raises(IdempotencyKeyReused) as caught:
        enqueue(connection, "echo", {"a": 2}, idempotency_key="k")
    assert caught.value.task_id == first
    assert "'k'" in str(caught.value)


async def test_repetition_matches_after_handler_limits_changed(
    engine: Engine, store: Store
) -> None:
    with engine.begin() as connection:
        first = enqueue(connection, "echo", idempotency_key="k")
    await store.register(new_id(), "worker-1", ["default"], [Announcement("echo", 9, 9.0)])
    with engine.begin() as connection:
        assert enqueue(connection, "echo", idempotency_key="k") == first


async def test_limits_come_from_call_then_handler_then_default(
    engine: Engine, store: Store
) -> None:
    await store.register(new_id(), "worker-1", ["default"], [Announcement("announced", 7, 30.0)])
    with engine.begin() as connection:
        said = enqueue(connection, "announced", max_attempts=2, timeout_seconds=3.0)
        announced = enqueue(connection, "announced")
        unknown = enqueue(connection, "unknown")
    found = [await store.get(task_id) for task_id in (said, announced, unknown)]
    limits = [(s.task.max_attempts, s.task.timeout_seconds) for s in found if s]
    assert limits == [(2, 3.0), (7, 30.0), (5, 300.0)]


async def test_unknown_queue_is_refused_until_announced(engine: Engine, store: Store) -> None:
    await store.register(new_id(), "worker-1", ["mail"], [])
    with engine.begin() as connection:
        with pytest.raises(UnknownQueue, match=r"'nowhere'.*HOLDFAST_KNOWN_QUEUES"):
            enqueue(connection, "echo", queue="nowhere", idempotency_key="k")
        assert connection.scalar(text("SELECT count(*) FROM tasks")) == 0, "usable afterwards"
        kept = enqueue(connection, "echo", queue="mail")
    # A queue stays known when the rows of its workers are deleted.
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM workers"))
        enqueue(connection, "echo", queue="mail")
    assert await store.announce_queues(["nowhere", "mail", "nowhere"]) == ["nowhere"]
    with engine.begin() as connection:
        stored = enqueue(connection, "echo", queue="nowhere", idempotency_key="k")
    assert {(await store.get(i)).task.queue for i in (kept, stored)} == {"mail", "nowhere"}  # type: ignore[union-attr]


def test_batch_with_an_unknown_queue_is_refused(engine: Engine) -> None:
    tasks = [TaskRequest(name="echo"), TaskRequest(name="echo", queue="nowhere")]
    with engine.connect() as connection:
        with connection.begin(), pytest.raises(UnknownQueue) as refused:
            enqueue_many(connection, tasks)
        assert refused.value.queue == "nowhere"


def test_enqueue_many_keeps_order_and_resolves_shared_keys(engine: Engine) -> None:
    tasks = [
        TaskRequest(name="echo", payload={"n": n}, idempotency_key=f"k{n % 100}")
        for n in range(100)
    ]
    with engine.begin() as connection:
        ids = enqueue_many(connection, [*tasks, *tasks])
        assert ids[:100] == ids[100:]
        assert len(set(ids)) == 100
        rows = connection.execute(text("SELECT id, payload->>'n' FROM requests")).all()
    assert {row[0]: int(row[1]) for row in rows} == {ids[n]: n for n in range(100)}
    with engine.begin() as connection:
        assert enqueue_many(connection, []) == []


UNFAITHFUL: list[Any] = [
    {"a": "\0"},
    {"a": "\ud800"},
    {"a": float("nan")},
    {"a": (1, 2)},
    {1: "a"},
    {"a": 1 << 64},
    {"a": b"bytes"},
    {"a": {1, 2}},
    {"a": "x" * (1 << 20)},
]


def test_payload_that_would_change_is_refused_before_sending(engine: Engine) -> None:
    with engine.begin() as connection:
        for payload in UNFAITHFUL:
            with pytest.raises((PayloadError, ValidationError)):
                enqueue(connection, "echo", payload)
        assert connection.scalar(text("SELECT count(*) FROM tasks")) == 0, "usable afterwards"


OUT_OF_BOUNDS: list[dict[str, Any]] = [
    {"priority": 10},
    {"max_attempts": 0},
    {"timeout_seconds": 0.0},
    {"timeout_seconds": float("inf")},
    {"queue": "a b"},
    {"idempotency_key": "k\0"},
]


def test_arguments_out_of_bounds_are_refused(engine: Engine) -> None:
    with engine.connect() as connection:
        for arguments in OUT_OF_BOUNDS:
            with pytest.raises(ValidationError):
                enqueue(connection, "echo", **arguments)
