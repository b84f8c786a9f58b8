"""A slot pool on its own: which slots are free, and when the pool is idle or stuck."""

from __future__ import annotations

import asyncio
import io
from typing import cast

import pytest

from holdfast.telemetry.logs import create_logger
from holdfast.worker.attempt import RunningAttempt
from holdfast.worker.slot_pool import SlotPool


class Attempt:
    """What a slot pool knows of an attempt."""

    def __init__(self, *, stopping: bool) -> None:
        self.stopping = stopping


def attempt(*, stopping: bool = False) -> RunningAttempt:
    return cast("RunningAttempt", Attempt(stopping=stopping))


@pytest.fixture
def pool() -> SlotPool:
    return SlotPool(3, create_logger(style="json", stream=io.StringIO()), dead_seconds=0.0)


@pytest.mark.parametrize(
    ("running", "stuck"),
    [
        ([], False),
        ([attempt()], False),
        ([attempt(stopping=True)], True),
        ([attempt(stopping=True), attempt(stopping=True)], True),
        ([attempt(stopping=True), attempt()], False),
        ([attempt(stopping=True), None], False),  # an end that is being written
    ],
)
async def test_stuck_means_that_every_attempt_was_asked_to_stop(
    pool: SlotPool, running: list[RunningAttempt | None], *, stuck: bool
) -> None:
    end = asyncio.Event()
    for each in running:
        pool.run(end.wait(), each)
    assert pool.stuck is stuck
    assert pool.free == 3 - len(running)
    assert pool.idle is not bool(running)
    end.set()
    assert await pool.wait(lambda: pool.idle, 1.0)
    assert (pool.stuck, pool.free) == (False, 3)


async def test_exclusive_use_ends_only_with_its_own_attempt(pool: SlotPool) -> None:
    owner, other = attempt(), attempt()
    pool.acquire_exclusive(owner)
    assert (pool.exclusive, pool.free, pool.idle) == (True, 0, True)
    pool.release_exclusive(other)
    assert (pool.exclusive, pool.free) == (True, 0)
    waiting = asyncio.create_task(pool.wait(lambda: pool.free == 3, 60.0))
    await asyncio.sleep(0)
    pool.release_exclusive(owner)
    assert await asyncio.wait_for(waiting, 0.5), "a release wakes who waits"
    assert (pool.exclusive, pool.free) == (False, 3)
