"""Statements by id lock their rows in the order of the ids, so that none of them deadlock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import psycopg
import pytest
from bench import Bench
from waiting import until

from holdfast.model.claim import Failure, Grant, Success
from holdfast.model.lifecycle import Reason

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


async def running(bench: Bench) -> list[Grant]:
    return await bench.claimed(*"abcde", worker=await bench.registered(immortal=True))


async def claim(bench: Bench) -> Awaitable[object]:
    worker = await bench.registered(immortal=True)
    await bench.submit(*"abcde")
    hints = (await bench.store.dispatch(10, "scheduler:test")).tasks
    return bench.store.claim(hints[::-1], worker, uuid4())


async def finish(bench: Bench) -> Awaitable[object]:
    grants = await running(bench)
    ends = [Success(grant.task_id, grant.epoch, "1") for grant in grants[::-1]]
    return bench.store.finish(ends, uuid4())


async def release(bench: Bench) -> Awaitable[object]:
    grants = await running(bench)
    ends = [Failure(grant.task_id, grant.epoch, Reason.FAILED) for grant in grants[::-1]]
    return bench.store.release(ends, uuid4())


async def cancel(bench: Bench) -> Awaitable[object]:
    return bench.store.cancel((await bench.submit(*"abcde"))[::-1], "api:test")


async def retry(bench: Bench) -> Awaitable[object]:
    return bench.store.retry((await bench.submit(*"abcde"))[::-1], "api:test")


@pytest.mark.parametrize("prepare", [claim, finish, release, cancel, retry])
async def test_nothing_is_locked_before_the_smallest_id(
    bench: Bench, prepare: Callable[[Bench], Awaitable[Awaitable[object]]]
) -> None:
    statement = await prepare(bench)
    with psycopg.connect(bench.settings.database_url) as holder:
        holder.execute("SELECT 1 FROM tasks ORDER BY id LIMIT 1 FOR UPDATE")
        sending = asyncio.ensure_future(statement)
        await until(lambda: bench.sql(WAITING) == [(1,)])
        free = bench.sql("SELECT 1 FROM tasks FOR UPDATE SKIP LOCKED")
    await sending
    assert len(free) == 4
