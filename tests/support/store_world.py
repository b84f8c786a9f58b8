"""A store with one task in a known state, for tests that race statements against each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.model.claim import Failure, Success
from holdfast.model.dispatch import Hint
from holdfast.model.ids import new_id
from holdfast.model.lifecycle import Reason
from holdfast.model.task import NewTask
from holdfast.settings import Settings
from holdfast.store.decoding import Row, all_rows
from holdfast.store.store import Store

KEY = "one-key"


class HeldStore(Store):
    """A Store on one connection whose statements run inside ``transaction()``."""

    def __init__(self, settings: Settings, connection: AsyncConnection) -> None:
        super().__init__(settings, connections=1, application_name="held")
        self._connection = connection
        self._database = self  # type: ignore[assignment]

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        return self._connection.begin()

    async def rows(
        self, statement: TextClause, parameters: Mapping[str, Any] | None = None
    ) -> list[Row]:
        return all_rows(await self._connection.execute(statement, parameters))


@dataclass
class World:
    """One task and three workers: ``alive``, ``lapsed`` (expired lease) and ``dead`` (marked)."""

    store: Store
    task_id: UUID = field(default_factory=new_id)
    token: UUID = field(default_factory=uuid4)
    alive: UUID = field(default_factory=uuid4)
    lapsed: UUID = field(default_factory=uuid4)
    dead: UUID = field(default_factory=uuid4)
    owner: UUID | None = None
    epoch: int = 0
    begun_until: datetime | None = None

    async def sql(self, statement: str, **parameters: Any) -> list[Row]:
        return await self.store._database.rows(text(statement), parameters)

    def new_task(self, *, timeout_seconds: float = 60.0) -> NewTask:
        return NewTask(
            self.task_id,
            "echo",
            b'{"n": 1}',
            max_attempts=2,
            max_losses=2,
            timeout_seconds=timeout_seconds,
            idempotency_key=KEY,
        )

    def hint(self) -> Hint:
        return Hint(self.task_id, self.epoch, "default", None)


_CLEAN = """
WITH t AS (DELETE FROM tasks), r AS (DELETE FROM requests), v AS (DELETE FROM task_events),
  f AS (DELETE FROM effects),
  s AS (DELETE FROM stale_writes), w AS (DELETE FROM workers)
INSERT INTO workers (id, label, queues, started_at, lease_expires_at, dead_at)
SELECT id, 'w', '{default}', now, now + lease * interval '1 hour', CASE WHEN dead THEN now END
FROM clock_timestamp() AS now, (VALUES
  (CAST(:alive AS uuid), 1, false), (:lapsed, -1, false), (:dead, 1, true)) AS v(id, lease, dead)
RETURNING id"""


async def empty(store: Store) -> World:
    """Prepare three workers and no task."""
    world = World(store)
    await world.sql(_CLEAN, alive=world.alive, lapsed=world.lapsed, dead=world.dead)
    return world


async def scheduled(store: Store) -> World:
    world = await empty(store)
    await store.submit([world.new_task()], "api")
    return world


async def queued(store: Store) -> World:
    world = await scheduled(store)
    assert len((await store.dispatch(10, "scheduler")).tasks) == 1
    return world


async def queued_quarantined(store: Store) -> World:
    """Prepare a task lost once, with max_losses 2."""
    world = await _run(store, "dead")
    assert len(await store.reclaim(10, "scheduler")) == 1
    assert len((await store.dispatch(10, "scheduler")).tasks) == 1
    world.epoch, world.owner = world.epoch + 1, None
    return world


async def running_quarantined(store: Store) -> World:
    world = await queued_quarantined(store)
    world.owner = world.alive
    claimed = await store.claim([world.hint()], world.owner, world.token, exclusive=True)
    assert len(claimed.grants) == 1
    world.epoch += 1
    return world


async def overdue_hint(store: Store) -> World:
    world = await queued(store)
    await world.sql(
        "UPDATE tasks SET hint_deadline = clock_timestamp() - interval '1 hour' RETURNING id"
    )
    return world


async def _run(store: Store, who: str) -> World:
    world = await queued(store)
    world.owner = getattr(world, who)
    claimed = await store.claim([world.hint()], world.owner, world.token)
    assert len(claimed.grants) == 1
    world.epoch += 1
    return world


async def running(store: Store) -> World:
    return await _run(store, "alive")


async def running_lapsed(store: Store) -> World:
    return await _run(store, "lapsed")


async def running_dead(store: Store) -> World:
    return await _run(store, "dead")


async def running_cancel_requested(store: Store) -> World:
    world = await _run(store, "alive")
    await store.cancel([world.task_id], "api")
    return world


async def running_overtime(store: Store) -> World:
    world = await running_overtime_unbegun(store)
    world.begun_until = await store.clock()
    await store.heartbeat(world.alive, world.begun_until)
    return world


async def running_overtime_unbegun(store: Store) -> World:
    """Prepare an old attempt whose worker has not said that its handler began."""
    world = await _run(store, "alive")
    await world.sql("UPDATE tasks SET claimed_at = claimed_at - interval '1 hour' RETURNING id")
    return world


async def failed(store: Store) -> World:
    world = await _run(store, "alive")
    assert world.owner
    await store.release([Failure(world.task_id, world.epoch, Reason.DISCARDED)], world.owner)
    world.epoch += 1
    return world


async def succeeded(store: Store) -> World:
    world = await _run(store, "alive")
    assert world.owner
    await store.finish([Success(world.task_id, world.epoch, "1")], world.owner)
    world.epoch += 1
    return world


async def cancelled(store: Store) -> World:
    world = await scheduled(store)
    await store.cancel([world.task_id], "api")
    return world


Preparation = Callable[[Store], Awaitable[World]]
PREPARATIONS: dict[str, Preparation] = {
    "empty": empty,
    "scheduled": scheduled,
    "queued": queued,
    "queued_quarantined": queued_quarantined,
    "overdue_hint": overdue_hint,
    "running": running,
    "running_lapsed": running_lapsed,
    "running_dead": running_dead,
    "running_quarantined": running_quarantined,
    "running_cancel_requested": running_cancel_requested,
    "running_overtime": running_overtime,
    "running_overtime_unbegun": running_overtime_unbegun,
    "failed": failed,
    "succeeded": succeeded,
    "cancelled": cancelled,
}
