"""A short ``statement_timeout`` of the role: batches shrink until they fit, in every statement."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from bench import Bench
from waiting import until

from holdfast.api.coalescer import Coalescer
from holdfast.errors import StatementCancelled
from holdfast.handlers import Context
from holdfast.model.claim import Success
from holdfast.model.ids import new_id
from holdfast.model.lifecycle import State
from holdfast.model.task import NewTask, Submitted
from holdfast.store.resend import BatchSize, send_halving
from holdfast.store.store import Store
from holdfast.telemetry.event_names import EventName

# Each row takes 20 ms, and the role allows 150 ms: a batch of 20 is cancelled, one of 5 is not.
SLOW_ROWS = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN PERFORM pg_sleep({seconds}); RETURN COALESCE(NEW, OLD); END $$;
CREATE TRIGGER slow BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION slow()"""
LIMITED = "?options=-c%20statement_timeout%3D150"


@pytest.fixture
def limited(bench: Bench) -> str:
    return bench.settings.database_url + LIMITED


async def test_dispatch_shrinks_until_it_fits(bench: Bench, limited: str) -> None:
    """The same batch was once repeated for ever, and no task was dispatched."""
    ids = await bench.submit(*["a"] * 40)
    bench.sql(SLOW_ROWS.format(seconds=0.02, event="UPDATE", table="tasks"))
    async with bench.scheduler(database_url=limited, dispatch_batch=40):
        await bench.until_state(ids, State.QUEUED)
    assert "a batch of 40; the next one has at most 20" in bench.log.getvalue()


async def test_prune_shrinks_until_it_fits(bench: Bench, limited: str) -> None:
    ids = await bench.submit(*["a"] * 30)
    await bench.store.cancel(ids, "test")
    bench.sql(SLOW_ROWS.format(seconds=0.02, event="DELETE", table="tasks"))
    async with bench.scheduler(database_url=limited, sweep_batch=30, retention_days=1e-7):
        await until(lambda: bench.sql("SELECT 1 FROM tasks") == [])


async def test_reclaim_shrinks_until_it_fits(bench: Bench, limited: str) -> None:
    worker = await bench.registered()
    grants = await bench.claimed(*["a"] * 30, worker=worker)
    bench.sql(f"UPDATE workers SET dead_at = clock_timestamp() WHERE id = '{worker}'")
    bench.sql(SLOW_ROWS.format(seconds=0.02, event="UPDATE", table="tasks"))
    async with bench.scheduler(database_url=limited, sweep_batch=30, dispatch_batch=1):
        await until(lambda: bench.sql("SELECT 1 FROM tasks WHERE state = 'RUNNING'") == [])
    assert len(grants) == 30


async def test_expiry_of_lost_hints_shrinks_until_it_fits(bench: Bench, limited: str) -> None:
    """All of them were once expired by one statement, which was repeated for ever."""
    ids = await bench.offer(*["a"] * 40)
    await bench.queue._redis.flushall()
    bench.sql(SLOW_ROWS.format(seconds=0.02, event="UPDATE", table="tasks"))
    republished = "SELECT count(*) FROM task_events WHERE reason = 'republished'"
    async with bench.scheduler(database_url=limited, sweep_batch=40):
        await until(lambda: EventName.HINT_LOSS_DETECTED in bench.logged())
        await until(lambda: bench.sql(republished) == [(len(ids),)])


async def test_schedulers_do_not_expire_hints_that_others_republished(bench: Bench) -> None:
    await bench.offer("a", "b", "c")
    since = await bench.store.clock()
    assert [await bench.store.expire_hints(2, since) for _ in range(3)] == [2, 1, 0]
    assert len(await bench.store.republish(2, "scheduler:test")) == 2
    assert await bench.store.expire_hints(2, since) == 0
    later = await bench.store.clock()
    assert [await bench.store.expire_hints(2, later) for _ in range(2)] == [2, 0], "lost once more"


async def test_mark_dead_shrinks_until_it_fits(bench: Bench, limited: str) -> None:
    for _ in range(30):
        await bench.registered()
    bench.sql("UPDATE workers SET lease_expires_at = clock_timestamp()")
    bench.sql(SLOW_ROWS.format(seconds=0.02, event="UPDATE", table="workers"))
    async with bench.scheduler(database_url=limited, sweep_batch=30):
        await until(lambda: bench.sql("SELECT 1 FROM workers WHERE dead_at IS NULL") == [])


async def test_prune_of_workers_shrinks_until_it_fits(bench: Bench, limited: str) -> None:
    for _ in range(30):
        await bench.store.retire(await bench.registered(), None)
    bench.sql(SLOW_ROWS.format(seconds=0.02, event="DELETE", table="workers"))
    async with bench.scheduler(database_url=limited, sweep_batch=30, retention_days=1e-9):
        await until(lambda: bench.sql("SELECT 1 FROM workers") == [])


async def test_queues_of_dead_workers_are_read_in_parts(bench: Bench) -> None:
    for queues in (["b"], ["a", "b"], ["c"], ["a"], ["d"]):
        worker = uuid4()
        await bench.store.register(worker, "test", queues, [])
        await bench.store.retire(worker, None)
    await bench.store.register(uuid4(), "test", ["of the living"], [])
    async with bench.scheduler(sweep_batch=2) as scheduler:
        assert await scheduler._queues_of_dead_workers() == ["a", "b", "c", "d"]


async def test_claims_and_ends_shrink_until_they_fit(bench: Bench, limited: str) -> None:
    @bench.registry.task("short")
    async def short(_: Context, payload: dict[str, Any]) -> None:
        pass

    ids = await bench.offer(*["short"] * 30)
    bench.sql(SLOW_ROWS.format(seconds=0.02, event="UPDATE", table="tasks"))
    async with bench.worker(database_url=limited, worker_concurrency=30):
        await bench.until_state(ids, State.SUCCEEDED)
    assert bench.sql("SELECT max(attempt) FROM tasks") == [(1,)]


async def test_submit_shrinks_until_it_fits(bench: Bench, limited: str) -> None:
    bench.sql(SLOW_ROWS.format(seconds=0.02, event="INSERT", table="tasks"))
    changed = bench.settings.model_copy(update={"database_url": limited})
    store = Store(changed, connections=4, application_name="test")
    coalescer = Coalescer(store.submit, "api:test", 30.0)
    tasks = [NewTask(id=new_id(), name="a", payload=b"{}") for _ in range(30)]
    outcomes = await coalescer.submit(tasks)
    assert [type(outcome) for outcome in outcomes] == [Submitted] * 30
    await coalescer.close()
    await store.close()
    assert bench.sql("SELECT count(*) FROM tasks") == [(30,)]


async def test_single_row_that_takes_too_long_is_unavailable(bench: Bench, limited: str) -> None:
    worker = await bench.registered()
    (grant,) = await bench.claimed("a", worker=worker)
    bench.sql(SLOW_ROWS.format(seconds=1, event="UPDATE", table="tasks"))
    changed = bench.settings.model_copy(update={"database_url": limited})
    store = Store(changed, connections=1, application_name="test")
    ends = [Success(grant.task_id, grant.epoch, "1")]
    with pytest.raises(StatementCancelled, match="nothing was done"):
        await send_halving(ends, lambda some: store.finish(some, worker))
    await store.close()
    assert await bench.state(grant.task_id) is State.RUNNING


async def test_batch_grows_again_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    size, now, sent = BatchSize(100), loop.time(), []

    async def send(rows: int) -> int:
        sent.append(rows)
        if rows > limit:
            raise StatementCancelled("too long")
        return rows

    limit = 30
    for _ in range(2):
        with pytest.raises(StatementCancelled):
            await size.send(send)
    assert await size.send(send) == 25
    limit = 1000
    for seconds in (59, 60, 119, 120, 180):
        monkeypatch.setattr(loop, "time", lambda later=now + seconds + 1: later)
        await size.send(send)
    assert sent == [100, 50, 25, 25, 50, 50, 100, 100]
