"""Every pair of statements on one task: A is open, B starts, A commits.

The outcome must equal that of B before A or B after A; a scan may also have skipped the task. Only
concurrency reveals READ COMMITTED anomalies: a single statement is atomic.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from store_world import PREPARATIONS, HeldStore, World

from examples import share_of
from holdfast.model.claim import Failure, Success
from holdfast.model.lifecycle import Reason
from holdfast.settings import Settings
from holdfast.store.store import Store

LATER = datetime.now(UTC) + timedelta(days=1)
Operation = Callable[[Store, World], Awaitable[Any]]

OPERATIONS: dict[str, Operation] = {
    "submit": lambda s, w: s.submit([w.new_task()], "api"),
    "submit_same_key": lambda s, w: s.submit([replace(w.new_task(), id=UUID(int=7))], "api"),
    "dispatch": lambda s, _: s.dispatch(10, "scheduler"),
    "republish": lambda s, _: s.republish(10, "scheduler"),
    "expire_hints": lambda s, _: _expired(s),
    "restart_hint_deadlines": lambda s, w: s.restart_hint_deadlines([w.task_id]),
    "claim": lambda s, w: s.claim([w.hint()], w.alive, w.token),
    "claim_other_token": lambda s, w: s.claim([w.hint()], w.lapsed, UUID(int=1)),
    "claim_exclusive": lambda s, w: s.claim([w.hint()], w.alive, w.token, exclusive=True),
    "claim_exclusive_other_token": lambda s, w: s.claim(
        [w.hint()], w.lapsed, UUID(int=1), exclusive=True
    ),
    "heartbeat": lambda s, w: s.heartbeat(w.owner or w.lapsed, w.begun_until),
    "heartbeat_lapsed": lambda s, w: s.heartbeat(w.lapsed, w.begun_until),
    "finish": lambda s, w: s.finish([Success(w.task_id, w.epoch, "1")], w.owner or w.alive),
    # Of two successes for a task the last counts: the batch's statement, with one task.
    "finish_batch": lambda s, w: s.finish(
        [Success(w.task_id, w.epoch, "1")] * 2, w.owner or w.alive
    ),
    "fail": lambda s, w: s.release(
        [Failure(w.task_id, w.epoch, Reason.FAILED)], w.owner or w.alive
    ),
    "release": lambda s, w: s.release(
        [Failure(w.task_id, w.epoch, Reason.RELEASED, unhandled=True)], w.owner or w.alive
    ),
    "mark_dead": lambda s, _: s.mark_dead(10, LATER, 60.0),
    "retire": lambda s, w: s.retire(w.owner or w.alive, w.begun_until),
    "reclaim": lambda s, _: s.reclaim(10, "scheduler"),
    "cancel": lambda s, w: s.cancel([w.task_id], "api"),
    "retry": lambda s, w: s.retry([w.task_id], "api"),
    "prune": lambda s, _: s.prune(10),
}


async def _expired(store: Store) -> int:
    return await store.expire_hints(10, await store.clock())


SCANS = {"dispatch", "republish", "expire_hints", "mark_dead", "reclaim", "prune"}


@dataclass(frozen=True)
class Outcome:
    """The final state and the answers of a pair, without values that differ between runs."""

    state: str
    first: str
    second: str


@pytest.fixture
def racing(settings: Settings) -> Settings:
    return settings.model_copy(update={"retention_days": 1e-9, "dead_letter_retention_days": 1e-9})


@pytest.fixture
async def store(racing: Settings) -> AsyncIterator[Store]:
    store = Store(racing, connections=4, application_name="b")
    yield store
    await store.close()


@pytest.fixture
async def held(racing: Settings) -> AsyncIterator[HeldStore]:
    engine = create_async_engine(racing.database_url.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.connect() as connection:
        yield HeldStore(racing, connection)
    await engine.dispose()


_STATE = """
SELECT (SELECT jsonb_agg(jsonb_build_array(state, epoch, seq, attempt, losses, handed_back,
      unhandled, cancel_requested, max_attempts, max_losses, worker_id) ORDER BY id)
    FROM tasks) AS tasks,
  (SELECT count(*) FROM requests) AS requests,
  (SELECT jsonb_agg(jsonb_build_array(seq, from_state, to_state, epoch, attempt, actor, reason)
      ORDER BY task_id, seq) FROM task_events) AS events,
  (SELECT jsonb_agg(jsonb_build_array(epoch, attempt, result)) FROM effects) AS effects,
  (SELECT jsonb_agg(jsonb_build_array(epoch, outcome, state_found, epoch_found)
      ORDER BY outcome, id) FROM stale_writes) AS refused,
  (SELECT jsonb_agg(jsonb_build_array(dead_at IS NOT NULL, lease_expires_at > clock_timestamp())
      ORDER BY dead_at IS NOT NULL, lease_expires_at > clock_timestamp()) FROM workers) AS workers
"""


async def _state(world: World) -> str:
    (row,) = await world.sql(_STATE)
    return _names(world, "\n".join(f"{name}: {value}" for name, value in row.items()))


def _names(world: World, shown: str) -> str:
    for name in ("task_id", "token", "alive", "lapsed", "dead"):
        shown = shown.replace(str(getattr(world, name)), name)
    return shown


def _answer(world: World, value: Any) -> str:
    """Return the answer without instants, which differ between runs."""
    if isinstance(value, list):
        return str([_answer(world, item) for item in value])
    if type(value).__name__ == "Submitted":
        return f"{value.outcome} {value.task.state}"
    if type(value).__name__ == "Claimed":
        granted = [(grant.epoch, grant.attempt, grant.quarantined) for grant in value.grants]
        return f"granted {granted} deferred {len(value.deferred)}"
    return _names(world, re.sub(r"datetime\.datetime\([^)]*\)", "an instant", str(value)))


class Serial:
    """The outcomes of pairs run serially, each computed once for all tests of this module."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str | None], Outcome] = {}

    async def run(self, store: Store, preparation: str, first: str, second: str | None) -> Outcome:
        key = (preparation, first, second)
        if key not in self._known:
            world = await PREPARATIONS[preparation](store)
            a = _answer(world, await OPERATIONS[first](store, world))
            b = _answer(world, await OPERATIONS[second](store, world)) if second else ""
            self._known[key] = Outcome(await _state(world), a, b)
        return self._known[key]


async def _raced(
    held: HeldStore, store: Store, preparation: str, first: str, second: str
) -> tuple[Outcome, bool]:
    """Return the outcome of the race, and whether B had to wait for A."""
    world = await PREPARATIONS[preparation](store)
    async with held.transaction():
        a = await OPERATIONS[first](held, world)
        task = asyncio.ensure_future(OPERATIONS[second](store, world))
        blocked = await _done_or_blocked(world, task)
    b = await task
    return Outcome(await _state(world), _answer(world, a), _answer(world, b)), blocked


async def _done_or_blocked(world: World, task: asyncio.Future[Any]) -> bool:
    while not task.done():
        waiting = await world.sql(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
            "AND cardinality(pg_blocking_pids(pid)) > 0"
        )
        if waiting:
            return True
    return False


@pytest.fixture(scope="module")
def serial() -> Serial:
    return Serial()


@pytest.mark.parametrize("first", sorted(OPERATIONS))
async def test_every_pair_is_serializable(
    first: str, store: Store, held: HeldStore, serial: Serial
) -> None:
    waited = 0
    for number, preparation in enumerate(PREPARATIONS):
        first_only = await serial.run(store, preparation, first, None)
        if first_only.state == await _state(await PREPARATIONS[preparation](store)):
            continue  # A changes nothing here: there is no race
        for second in share_of([*OPERATIONS], number + [*OPERATIONS].index(first)):
            raced, blocked = await _raced(held, store, preparation, first, second)
            waited += blocked
            after = await serial.run(store, preparation, first, second)
            before = await serial.run(store, preparation, second, first)
            allowed = [after, Outcome(before.state, before.second, before.first)]
            if second in SCANS:
                allowed.append(Outcome(first_only.state, first_only.first, raced.second))
            assert raced in allowed, f"{preparation}: {first} open, {second} started"
    if first not in {"prune", "expire_hints", "restart_hint_deadlines"}:
        assert waited, f"no statement waited for {first}: there was no race"
