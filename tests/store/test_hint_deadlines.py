"""The deadline of a hint doubles with each republishing, and starts anew if Redis refused it."""

from __future__ import annotations

from uuid import uuid4

from bench import Bench

from holdfast.model.lifecycle import State

_DEADLINE = """SELECT publishes, round(extract(epoch FROM hint_deadline - clock_timestamp()))::int
FROM tasks"""
_EXPIRED = "UPDATE tasks SET hint_deadline = clock_timestamp() - interval '5 s'"


async def _republished(bench: Bench, times: int) -> None:
    for _ in range(times):
        bench.sql(_EXPIRED)
        assert len(await bench.store.republish(10, "scheduler:test")) == 1


async def test_refused_hint_loses_its_doubling(bench: Bench) -> None:
    (task_id,) = await bench.offer("a")
    assert bench.sql(_DEADLINE) == [(1, 60)]
    await _republished(bench, 2)
    assert bench.sql(_DEADLINE) == [(3, 240)]
    await bench.store.restart_hint_deadlines([task_id])
    assert bench.sql(_DEADLINE) == [(0, 60)]
    await bench.store.restart_hint_deadlines([task_id, uuid4()])
    assert bench.sql(_DEADLINE) == [(0, 60)], "may be sent again"
    await _republished(bench, 1)
    assert bench.sql(_DEADLINE) == [(1, 60)], "as after its dispatch"


async def test_refused_hint_is_not_postponed(bench: Bench) -> None:
    (task_id,) = await bench.offer("a")
    bench.sql(_EXPIRED)
    await bench.store.restart_hint_deadlines([task_id])
    assert bench.sql(_DEADLINE) == [(0, -5)], "another scheduler may republish it at once"


async def test_task_claimed_meanwhile_is_left_alone(bench: Bench) -> None:
    (grant,) = await bench.claimed("a")
    before = bench.sql("SELECT xmin::text FROM tasks")
    await bench.store.restart_hint_deadlines([grant.task_id])
    assert bench.sql("SELECT state FROM tasks") == [(State.RUNNING,)]
    after = bench.sql("SELECT xmin::text FROM tasks")
    assert after == before, "locked, not written"
