"""The scenario of a history that no clients made (``specimen``)."""

from __future__ import annotations

from typing import Any

from chaos.scenario.operations import QUEUES
from chaos.scenario.scenario import Scenario

EVERY_KIND = ("submit", "repeat", "mismatch", "cancel", "retry", "get", "events", "list")


def specimen_scenario(plan: dict[str, Any], tasks: int) -> Scenario:
    """Return a scenario with the parts of ``plan``, whose workload plans no operations.

    Its workers read all queues.
    """
    document = {"id": "specimen", "hypothesis": "A handmade run gets the right verdict."}
    workload = {"tasks": max(1, tasks), "seconds": 5, "ok_min": 1}
    workload = plan.get("workload", workload) | {"without": EVERY_KIND}
    topology = plan.get("topology", {})
    queues = {f"worker-{n + 1}": QUEUES for n in range(topology.get("workers", 3))}
    topology = topology | {"queues": topology.get("queues", queues)}
    return Scenario.model_validate(document | plan | {"workload": workload, "topology": topology})
