"""Tasks whose name a worker does not know: released, never failed, and resting ever longer."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from bench import Bench
from waiting import until

from holdfast.handlers import Backoff, Context
from holdfast.model.lifecycle import State
from holdfast.settings import Settings
from holdfast.worker import executor

RESTS = [(0, 5.0), (1, 10.0), (5, 160.0), (6, 300.0), (1000, 300.0)]


@pytest.mark.parametrize(("before", "seconds"), RESTS)
async def test_task_rests_ever_longer_for_each_worker_without_its_handler(
    bench: Bench, before: int, seconds: float
) -> None:
    (task_id,) = await bench.offer("renamed")
    bench.sql(f"UPDATE tasks SET attempt = {before}, handed_back = {before}, unhandled = {before}")
    async with bench.worker():
        await bench.until_state(task_id, State.SCHEDULED)
    story = await bench.story(task_id)
    rest = (story.task.due_at - story.events[-1].at).total_seconds()
    assert 0.9 * seconds - 0.5 <= rest <= seconds + 0.5
    assert bench.sql("SELECT handed_back, unhandled FROM tasks") == [(before + 1, before + 1)]
    assert bench.count("holdfast_attempts_unhandled_total", queue="default", name="renamed") == 1


def test_unknown_name_is_released_at_most_20_times_in_any_hour() -> None:
    """By the defaults; no time for dispatch and claim is counted."""
    fields = Settings.model_fields
    rest = Backoff(
        fields["unknown_name_seconds"].default,
        max_seconds=fields["unknown_name_max_seconds"].default,
        jitter=executor._REST_JITTER,
    )
    releases = list(itertools.accumulate(rest.delay_seconds(n, 1.0) for n in range(1, 100)))
    assert max(sum(0 <= at - since < 3600 for at in releases) for since in [0.0, *releases]) <= 20
    assert releases[0] == 4.5


async def test_shutdown_does_not_lengthen_the_rest(bench: Bench) -> None:
    @bench.registry.task("endless")
    async def endless(ctx: Context, payload: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    (task_id,) = await bench.offer("endless")
    async with bench.incarnation(shutdown_grace_seconds=0.1) as (worker, running):
        await bench.until_state(task_id, State.RUNNING)
        worker.stop()
        assert await running == 0
    assert bench.sql("SELECT state, handed_back, unhandled FROM tasks") == [("SCHEDULED", 1, 0)]
    assert bench.count("holdfast_attempts_unhandled_total", queue="default", name="endless") == 0


async def test_task_is_never_failed_and_runs_once_a_worker_knows_it(bench: Bench) -> None:
    (task_id,) = await bench.submit("late", max_attempts=1)
    rests = {"unknown_name_seconds": 0.02, "unknown_name_max_seconds": 0.1}
    async with bench.scheduler():
        async with bench.worker(**rests):
            await until(lambda: bench.sql("SELECT unhandled >= 8 FROM tasks") == [(True,)])

        @bench.registry.task("late")
        async def late(ctx: Context, payload: dict[str, Any]) -> int:
            return ctx.attempt

        async with bench.worker():
            await bench.until_state(task_id, State.SUCCEEDED)
    task = (await bench.story(task_id)).task
    assert task.handed_back == task.attempt - 1 >= 8


async def test_equal_rests_would_meet_the_same_worker_each_time(bench: Bench) -> None:
    """Found by two_versions, live, seed 7: one worker got a task 87 times, never the one beside."""
    (grant,) = await bench.claimed("late")
    async with bench.worker() as worker:
        rests = {worker._executor._unknown_name(grant).delay_seconds for _ in range(10)}
    assert len(rests) == 10
    assert 4.5 <= min(rests) < max(rests) <= 5.0
