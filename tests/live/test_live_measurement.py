"""What a measurement of an edge shows, and that observers do not use edges."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.errors import EdgeRefused
from chaos.live.edges import EdgeMeasurement, require_direct, was_observed
from chaos.live.socket_stats import ByteCounts
from chaos.scenario.faults import FaultSpec


def plan(**more: Any) -> FaultSpec:
    values: dict[str, Any] = {"name": "f", "fault": "latency", "target": "worker-1->redis", "at": 0}
    return FaultSpec.model_validate(values | {"attributes": {"latency": 600_000}} | more)


def seen(**more: Any) -> EdgeMeasurement:
    values: dict[str, Any] = {
        "baseline_seconds": None,
        "probe_seconds": 2.0,
        "answered": False,
        "traffic": ByteCounts(sent=100, received=0, connections=1, closed=0),
        "open_before": 1,
        "closed": 0,
        "released": 0,
        "held_seconds": 2.0,
    }
    return EdgeMeasurement(**(values | more))


IDLE = ByteCounts(sent=0, received=0, connections=1, closed=0)
THROUGH = ByteCounts(sent=100, received=50, connections=1, closed=0)


def downloaded(count: int) -> EdgeMeasurement:
    """Return a measurement of an edge as fast as before that has received ``count`` bytes."""
    traffic = ByteCounts(sent=100, received=count, connections=1, closed=0)
    return seen(baseline_seconds=0.01, probe_seconds=0.011, answered=True, traffic=traffic)


@pytest.mark.parametrize(
    ("fault", "measured", "observed"),
    [
        pytest.param(plan(), seen(), True, id="requests without responses"),
        pytest.param(plan(), seen(traffic=THROUGH), False, id="responses arrived"),
        pytest.param(plan(), seen(answered=True), False, id="probe was answered"),
        pytest.param(plan(), seen(traffic=IDLE), False, id="idle edge"),
        pytest.param(plan(), seen(traffic=IDLE, released=9), True, id="response was held"),
        pytest.param(plan(stream="up"), seen(traffic=THROUGH), True, id="up: server still sends"),
        pytest.param(
            plan(attributes={"latency": 500}, stream="up"),
            seen(probe_seconds=0.51, answered=True),
            True,
            id="as slow as requested",
        ),
        pytest.param(
            plan(attributes={"latency": 500}, stream="up"),
            seen(probe_seconds=0.01, answered=True),
            False,
            id="not slow",
        ),
        pytest.param(
            plan(fault="reset_peer", attributes={"timeout": 0}),
            seen(answered=True),
            False,
            id="nothing closed",
        ),
        pytest.param(
            plan(fault="bandwidth", attributes={"rate": 1}),
            seen(baseline_seconds=0.01, probe_seconds=0.5, answered=True),
            True,
            id="slower than before",
        ),
        pytest.param(
            plan(fault="bandwidth", attributes={"rate": 1}),
            seen(baseline_seconds=0.01, probe_seconds=0.011, answered=True),
            False,
            id="as fast as before",
        ),
        pytest.param(
            plan(fault="bandwidth", stream="down", attributes={"rate": 1}),
            downloaded(1800),
            True,
            id="as much as the rate lets through",
        ),
        pytest.param(
            plan(fault="bandwidth", stream="down", attributes={"rate": 1}),
            downloaded(2500),
            False,
            id="more than the rate lets through",
        ),
    ],
)
def test_observed_is_decided_from_the_measurement(
    fault: FaultSpec, measured: EdgeMeasurement, *, observed: bool
) -> None:
    assert was_observed(fault, measured) is observed


def test_observers_do_not_use_proxies() -> None:
    direct = [
        "postgresql://u@127.0.0.1:5432/run",
        "redis://127.0.0.1:6379/0",
        "http://127.0.0.1:80",
    ]
    require_direct(direct, {7001, 7002})
    with pytest.raises(EdgeRefused, match="7002/0 leads through a proxy"):
        require_direct([*direct, "redis://127.0.0.1:7002/0"], {7001, 7002})
