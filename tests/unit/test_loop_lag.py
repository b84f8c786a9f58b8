"""The lag of an event loop is how much later than planned a sleep ends."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from holdfast.runtime import loop_lag
from holdfast.runtime.supervision import LoopSupervisor
from holdfast.telemetry.logs import create_logger
from holdfast.telemetry.metrics import Metrics


@pytest.mark.parametrize(("late_seconds", "lag_seconds"), [(0.25, 0.25), (0.0, 0.0), (-0.1, 0.0)])
async def test_lag_is_the_time_that_a_sleep_took_too_long(
    monkeypatch: pytest.MonkeyPatch, late_seconds: float, lag_seconds: float
) -> None:
    now = 100.0

    async def sleep(_: LoopSupervisor, seconds: float) -> None:
        nonlocal now
        now += seconds + late_seconds

    clock = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr(LoopSupervisor, "sleep", sleep)
    monkeypatch.setattr(loop_lag, "asyncio", SimpleNamespace(get_running_loop=lambda: clock))
    metrics = Metrics("test")
    loops = LoopSupervisor(create_logger(style="json", stream=io.StringIO()), metrics)
    await loop_lag.LoopLag(loops, metrics).measure()
    value = metrics.registry.get_sample_value
    assert value("holdfast_event_loop_lag_seconds_count") == 1
    assert value("holdfast_event_loop_lag_seconds_sum") == pytest.approx(lag_seconds)
