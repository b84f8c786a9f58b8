"""The scenario of a history that no clients made (``specimen``)."""

from __future__ import annotations

from typing import Any

from life import ALLOWED_SECONDS

from chaos.scenario.operations import QUEUES
from chaos.scenario.scenario import Scenario

LOAD_SECONDS = 5.0
EVERY_KIND = ("submit", "repeat", "mismatch", "cancel", "retry", "get", "events", "list")


def specimen_scenario(plan: dict[str, Any], tasks: int) -> Scenario:
    """Return a scenario with the parts of ``plan``, whose workload plans no operations.

    Its workers read all queues.
    """
    document = {"id": "specimen", "hypothesis": "A handmade run gets the right verdict."}
    workload = {"tasks": max(1, tasks), "seconds": LOAD_SECONDS, "ok_min": 1}
    workload = plan.get("workload", workload) | {"without": EVERY_KIND}
    topology = plan.get("topology", {})
    queues = {f"worker-{n + 1}": QUEUES for n in range(topology.get("workers", 3))}
    topology = topology | {"queues": topology.get("queues", queues)}
    expect = plan.get("expect", {})
    eventually = {"L1": ALLOWED_SECONDS} | expect.get("eventually", {})
    changed = {
        "workload": workload,
        "topology": topology,
        "expect": expect | {"eventually": eventually},
    }
    return Scenario.model_validate(document | plan | changed)
