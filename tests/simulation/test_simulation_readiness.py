"""A role that does not become ready ends the run, which is false and not undecided."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.history.records import ArenaName
from chaos.run.spec import RunSpec
from chaos.scenario.scenario import Scenario
from chaos.simulation.environment.shared_servers import SharedServers
from chaos.simulation.run import simulate

BLANK_KEY = Scenario.model_validate(
    {
        "id": "blank_key",
        "hypothesis": "An API with a blank key refuses to start.",
        "workload": {"tasks": 1, "seconds": 1, "api_keys": {"shop": [" "]}},
        "faults": [],
    }
)

# Killed processes leave open connections, which warn when they are freed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_role_that_refuses_to_start_is_a_violation(
    simulation_servers: SharedServers, tmp_path: Path
) -> None:
    ran = simulate(RunSpec(ArenaName.SIMULATION, BLANK_KEY, 1, tmp_path), simulation_servers)
    judged = ran.judgement
    assert (judged.verdict, judged.doubts) == ("false", ())
    (violation,) = judged.violations
    assert violation.invariant == "S27"
    (unready,) = judged.history.unready
    assert unready.actor == "api-1"
    assert unready.starts > 3
    assert "HOLDFAST_API_KEYS contains an empty key" in unready.log
