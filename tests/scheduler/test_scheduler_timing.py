"""What a scheduler waits for, how long, and which instants it gives to its failure detector."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from bench import Bench
from waiting import until

from holdfast.model.lifecycle import State
from holdfast.scheduler.failure_detector import FailureDetector
from holdfast.scheduler.scheduler import Scheduler

SWEEPS = {"loop": "sweep", "result": "ok"}


@pytest.fixture
def scheduler(bench: Bench) -> Scheduler:
    settings = bench.quick(
        poll_seconds=3.0, lease_seconds=10.0, heartbeat_seconds=2.0, statement_timeout_seconds=4.0
    )
    return Scheduler(settings, bench.telemetry(settings, "scheduler"))


async def test_loop_may_miss_ten_polls_and_a_statement(scheduler: Scheduler) -> None:
    found = {loop.name: loop.stalled_seconds for loop in scheduler.loops._loops}
    assert {name: seconds for name, seconds in found.items() if seconds is not None} == {
        "dispatch": 34.0,
        "sweep": 34.0,
        "hints": 34.0,
        "poke": 35.0,
        "janitor": 44.0,
        "prune": 94.0,
    }


@pytest.mark.parametrize(("poll_seconds", "gap_seconds"), [(0.1, 6.0), (2.5, 6.0), (4.0, 8.0)])
async def test_gap_is_a_lease_without_two_heartbeats_but_at_least_two_polls(
    bench: Bench, poll_seconds: float, gap_seconds: float
) -> None:
    settings = bench.quick(poll_seconds=poll_seconds, lease_seconds=10.0, heartbeat_seconds=2.0)
    scheduler = Scheduler(settings, bench.telemetry(settings, "scheduler"))
    assert scheduler._gap_seconds == gap_seconds


async def test_dispatch_sleeps_until_the_next_task_is_due(bench: Bench) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.95)
    (task_id,) = await bench.submit("a", run_at=soon)
    async with bench.scheduler(poll_seconds=30.0):
        await bench.until_state(task_id, State.QUEUED)
        turns = bench.count("holdfast_loop_turns_total", loop="dispatch", result="ok")
    assert turns <= 3, "before it was due, when it was due, and once more if the clocks differ"


async def test_failure_detector_gets_instants_in_their_order(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    class Recording(FailureDetector):
        def tick(self, now: float, database_now: datetime) -> bool:
            seen.append(now)
            return super().tick(now, database_now)

        def answered(self, now: float) -> None:
            seen.append(now)
            super().answered(now)

    monkeypatch.setattr("holdfast.scheduler.scheduler.FailureDetector", Recording)
    await bench.registered()
    bench.sql("UPDATE workers SET lease_expires_at = clock_timestamp()")
    async with bench.scheduler():
        await until(lambda: bench.sql("SELECT 1 FROM workers WHERE dead_at IS NOT NULL") == [(1,)])
        before = bench.count("holdfast_loop_turns_total", **SWEEPS)
        await until(lambda: bench.count("holdfast_loop_turns_total", **SWEEPS) > before + 1)
    assert seen == sorted(seen)


async def test_locked_row_of_a_worker_does_not_hold_up_the_others(bench: Bench) -> None:
    locked, free = await bench.registered(), await bench.registered()
    bench.sql("UPDATE workers SET lease_expires_at = clock_timestamp()")
    with psycopg.connect(bench.settings.database_url) as connection:
        connection.execute("SELECT 1 FROM workers WHERE id = %s FOR UPDATE", [locked])
        assert await bench.store.mark_dead(10, await bench.store.clock(), 60.0) == [free]
    assert await bench.store.mark_dead(10, await bench.store.clock(), 60.0) == [locked]
