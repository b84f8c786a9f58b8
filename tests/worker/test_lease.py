"""A worker's own account of its lease: it is over before the database's is."""

from __future__ import annotations

import asyncio
import time

from holdfast.runtime.supervision import wait_for_event
from holdfast.worker.lease import Lease

SECONDS = 60.0


async def test_it_is_held_from_the_first_answer_on() -> None:
    lease = Lease(SECONDS)
    assert not lease.held
    lease.renew(time.monotonic())
    assert lease.held


async def test_it_runs_from_the_sending_of_the_heartbeat() -> None:
    lease = Lease(SECONDS)
    lease.renew(time.monotonic() - SECONDS + 0.05)
    assert lease.held
    assert not await wait_for_event(asyncio.Event(), 0.06)
    assert not lease.held


async def test_an_answer_that_comes_after_its_time_renews_nothing() -> None:
    lease = Lease(SECONDS)
    lease.renew(time.monotonic() - SECONDS)
    assert not lease.held


async def test_who_is_dead_stays_dead() -> None:
    lease = Lease(SECONDS)
    lease.renew(time.monotonic())
    lease.lose()
    lease.renew(time.monotonic())
    assert lease.dead.is_set()
    assert not lease.held


async def test_whoever_waits_for_it_is_woken_by_any_word() -> None:
    for word in (Lease.lose, lambda lease: lease.renew(time.monotonic())):
        lease = Lease(SECONDS)
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            group.create_task(lease.wait(2 * SECONDS))
            await asyncio.sleep(0)
            word(lease)
