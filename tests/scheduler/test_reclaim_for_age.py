"""The reclaim of attempts that outlived their timeout and the grace: which of them count."""

from __future__ import annotations

from uuid import UUID

from bench import Bench
from waiting import until

from holdfast.model.lifecycle import Reason, State


async def test_attempt_far_past_its_timeout_is_reclaimed_from_live_worker(
    bench: Bench,
) -> None:
    worker = await bench.registered(immortal=True)
    (grant,) = await bench.claimed("a", worker=worker, timeout_seconds=0.1, max_attempts=1)
    async with bench.scheduler(lease_seconds=60.0, heartbeat_seconds=20.0):
        await bench.until_state(grant.task_id, State.FAILED)
    task = (await bench.story(grant.task_id)).task
    assert (task.attempt, task.losses) == (1, 0)
    assert (await bench.reasons(grant.task_id))[-1] is Reason.TIMED_OUT


async def test_attempt_that_never_began_is_reclaimed_uncounted(bench: Bench) -> None:
    """Its claim was not answered, though heartbeats were: it once used up ``max_attempts``."""
    worker = await bench.registered(immortal=True)
    bench.sql("UPDATE workers SET begun_until = clock_timestamp()")
    (grant,) = await bench.claimed("a", worker=worker, timeout_seconds=0.1, max_attempts=1)
    quick = {"lease_seconds": 60.0, "heartbeat_seconds": 20.0, "timeout_grace_seconds": 0.2}
    async with bench.scheduler(**quick):
        await until(lambda: _ended(bench, grant.task_id))
    story = await bench.story(grant.task_id)
    (end,) = (event for event in story.events if event.reason is Reason.RELEASED)
    assert (end.actor, end.to_state) == ("scheduler:test", State.SCHEDULED)
    assert end.detail is not None
    assert end.detail["error"]["type"] == "NotStarted"
    assert (story.task.attempt, story.task.handed_back, story.task.losses) == (1, 1, 0)
    assert bench.count("holdfast_attempts_taken_back_total", reason="handed back") == 1


async def test_attempt_of_silent_worker_is_lost_not_timed_out(bench: Bench) -> None:
    """Regression found by scheduler_pause_overlap: losses used up max_attempts."""
    worker = await bench.registered()
    (grant,) = await bench.claimed("a", worker=worker, timeout_seconds=0.1, max_attempts=1)
    async with bench.scheduler():  # its timeout grace ends long before the lease
        await until(lambda: _ended(bench, grant.task_id))
    task = (await bench.story(grant.task_id)).task
    assert (task.losses, task.finished_at) == (1, None)
    assert Reason.LOST in await bench.reasons(grant.task_id)
    assert Reason.TIMED_OUT not in await bench.reasons(grant.task_id)


async def _ended(bench: Bench, task_id: UUID) -> bool:
    return await bench.state(task_id) is not State.RUNNING
