"""A worker's view of its lease, which expires before the lease in the database."""

from __future__ import annotations

import asyncio
import time

from holdfast.runtime.supervision import wait_for_event
from holdfast.worker.lease import Lease

SECONDS = 60.0


async def test_lease_is_held_from_the_first_answered_heartbeat() -> None:
    lease = Lease(SECONDS)
    assert not lease.held
    lease.renew(time.monotonic())
    assert lease.held


async def test_lease_runs_from_when_the_heartbeat_was_sent() -> None:
    lease = Lease(SECONDS)
    lease.renew(time.monotonic() - SECONDS + 0.05)
    assert lease.held
    assert not await wait_for_event(asyncio.Event(), 0.06)
    assert not lease.held


async def test_late_reply_does_not_renew_the_lease() -> None:
    lease = Lease(SECONDS)
    lease.renew(time.monotonic() - SECONDS)
    assert not lease.held


async def test_dead_lease_stays_dead() -> None:
    lease = Lease(SECONDS)
    lease.renew(time.monotonic())
    lease.lose()
    lease.renew(time.monotonic())
    assert lease.dead.is_set()
    assert not lease.held


async def test_waiters_wake_on_renewal_and_on_loss() -> None:
    for change in (Lease.lose, lambda lease: lease.renew(time.monotonic())):
        lease = Lease(SECONDS)
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            group.create_task(lease.wait(2 * SECONDS))
            await asyncio.sleep(0)
            change(lease)
