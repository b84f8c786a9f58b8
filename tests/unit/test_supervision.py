"""Supervised loops: an error is reported and causes a pause, and never ends the loop."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from waiting import until, within

from holdfast.errors import Unavailable
from holdfast.runtime.supervision import LoopSupervisor, wait_for_event
from holdfast.telemetry.event_names import ErrorCode, EventName
from holdfast.telemetry.logs import create_logger
from holdfast.telemetry.metrics import Metrics


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("test")


@pytest.fixture
def loops(log: io.StringIO, metrics: Metrics) -> LoopSupervisor:
    return LoopSupervisor(create_logger(style="json", stream=log), metrics)


class Iterations:
    """An iteration that raises the given errors first, and counts its calls."""

    def __init__(self, loops: LoopSupervisor, *errors: BaseException) -> None:
        self._loops = loops
        self._errors = list(errors)
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        await self._loops.sleep(0.01)


async def ended(loops: LoopSupervisor, condition: Callable[[], bool]) -> None:
    running = asyncio.create_task(loops.run())
    await until(condition)
    loops.stop()
    await running


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("Postgres is unreachable"),
        RuntimeError("a bug"),
        asyncio.CancelledError("something awaited was cancelled"),
        TimeoutError(),
    ],
    ids=repr,
)
async def test_failed_iteration_is_logged_counted_and_retried(
    loops: LoopSupervisor, log: io.StringIO, metrics: Metrics, error: BaseException
) -> None:
    iterations = Iterations(loops, error)
    loops.add("work", iterations, stalled_seconds=5)
    await ended(loops, lambda: iterations.calls >= 3)
    line = json.loads(log.getvalue().splitlines()[0])
    assert (line["event_name"], line["loop"]) == (EventName.LOOP_FAILED, "work")
    expected = ErrorCode.UNAVAILABLE if isinstance(error, Unavailable) else None
    assert line.get("error_code") == expected
    count = metrics.registry.get_sample_value
    labels = {"loop": "work", "result": "failed"}
    assert count("holdfast_loop_turns_total", labels) == 1


async def test_failing_loop_does_not_slow_others(loops: LoopSupervisor) -> None:
    good, bad = Iterations(loops), Iterations(loops, *[RuntimeError()] * 100)
    loops.add("good", good, stalled_seconds=5)
    loops.add("bad", bad, stalled_seconds=5)
    await ended(loops, lambda: good.calls >= 20 and bad.calls >= 2)
    assert bad.calls < good.calls


async def test_pauses_grow_while_errors_last(loops: LoopSupervisor) -> None:
    started: list[float] = []

    async def iteration() -> None:
        started.append(asyncio.get_running_loop().time())
        raise Unavailable("unreachable")

    loops.add("work", iteration, stalled_seconds=5)
    await ended(loops, lambda: len(started) == 4)
    pauses = [later - earlier for earlier, later in pairwise(started)]
    assert all(pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.4), strict=True))


async def test_pauses_double_up_to_two_seconds_and_begin_again_after_progress(
    loops: LoopSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    errors: list[Exception | None] = [*[Unavailable("down")] * 7, None, Unavailable("down")]

    async def sleep(_: LoopSupervisor, seconds: float) -> None:
        pauses.append(seconds)

    async def iteration() -> None:
        error = errors.pop(0)
        if not errors:
            loops.stop()
        if error is not None:
            raise error

    monkeypatch.setattr(LoopSupervisor, "sleep", sleep)
    loops.add("work", iteration, stalled_seconds=5)
    await within(loops.run(), lambda: pauses)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 0.1]


async def test_stall_is_counted_from_the_start(loops: LoopSupervisor) -> None:
    async def iteration() -> None:
        await loops.sleep(60)

    loops.add("work", iteration, stalled_seconds=0.9)
    running = asyncio.create_task(loops.run())
    await asyncio.sleep(0)
    assert loops.stalled() == {}
    loops.stop()
    await running


async def test_readiness_requires_progress(loops: LoopSupervisor) -> None:
    released = asyncio.Event()

    async def iteration() -> None:
        await released.wait()
        await loops.sleep(0.01)

    loops.add("work", iteration, stalled_seconds=0.05)
    assert loops.stalled() == {"work": "not started"}
    running = asyncio.create_task(loops.run())
    await until(lambda: "iteration still running" in loops.stalled().get("work", ""))
    released.set()
    await until(lambda: loops.stalled() == {})
    loops.stop()
    await running


async def test_stalled_loop_reports_its_last_error(loops: LoopSupervisor) -> None:
    iterations = Iterations(loops, *[Unavailable("cannot reach Postgres")] * 3)
    loops.add("work", iterations, stalled_seconds=0.05)
    running = asyncio.create_task(loops.run())
    await until(lambda: "cannot reach Postgres" in loops.stalled().get("work", ""))
    await until(lambda: loops.stalled() == {})
    loops.stop()
    await running


async def test_loop_that_only_failed_since_the_start_is_not_ready(loops: LoopSupervisor) -> None:
    work = Iterations(loops, Unavailable("Redis is away"))
    loops.add("dispatch", work, stalled_seconds=3600)
    running = asyncio.create_task(loops.run())
    failing = {"dispatch": "no success since the start: Redis is away"}
    await until(lambda: loops.stalled() == failing)
    await until(lambda: not loops.stalled())
    loops.stop()
    await running


async def test_same_failure_is_logged_once_and_another_at_once(
    loops: LoopSupervisor, log: io.StringIO
) -> None:
    same = [Unavailable("Redis is away") for _ in range(4)]
    work = Iterations(loops, *same, Unavailable("Redis is full"))
    loops.add("dispatch", work, stalled_seconds=None)
    await ended(loops, lambda: work.calls > len(same) + 1)
    errors = [json.loads(line)["error"] for line in log.getvalue().splitlines()]
    assert errors == ["Redis is away", "Redis is full"]


async def test_stop_ends_every_sleep(loops: LoopSupervisor) -> None:
    async def iteration() -> None:
        await loops.sleep(60)

    loops.add("one", iteration, stalled_seconds=5)
    loops.add("two", iteration, stalled_seconds=5)
    running = asyncio.create_task(loops.run())
    await until(lambda: loops.stalled() == {})
    loops.stop()
    await within(running, loops.stalled)
    assert loops.stopping


async def test_cancellation_from_outside_ends_the_loops(loops: LoopSupervisor) -> None:
    iterations = Iterations(loops)
    loops.add("work", iterations, stalled_seconds=5)
    running = asyncio.create_task(loops.run())
    await until(lambda: iterations.calls > 0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_wait_for_event_returns_whether_it_was_set() -> None:
    event = asyncio.Event()
    assert not await wait_for_event(event, 0.01)
    assert not await wait_for_event(event, -1)
    asyncio.get_running_loop().call_later(0.01, event.set)
    assert await wait_for_event(event, 5)
