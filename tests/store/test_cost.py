"""The cost of a task in counts, which are the same on every machine under any load.

Runs the whole product in virtual time, twice under one seed, with few tasks and with many: the
difference is the cost of the additional tasks, without background work (polls, heartbeats). The
budgets are in ``budgets.yaml``; explain an increase in the commit message.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from chaos.history.records import ArenaName
from chaos.run.spec import RunSpec
from chaos.scenario.scenario import Scenario
from chaos.simulation.environment.environment import SimulatedEnvironment
from chaos.simulation.environment.shared_servers import SharedServers
from chaos.simulation.network.network import Message
from chaos.simulation.postgres import ExecutedStatement
from chaos.simulation.run import SimulationOptions, simulate

BUDGETS = yaml.safe_load((Path(__file__).parents[1] / "budgets.yaml").read_text(encoding="utf-8"))
_ROLES = {"api", "scheduler", "worker"}
_ROWS = """SELECT COALESCE(sum(n_tup_ins), 0), COALESCE(sum(n_tup_upd), 0),
  COALESCE(sum(n_tup_del), 0) FROM pg_stat_user_tables WHERE relname <> 'chaos_effects'"""


# Tasks that differ, and fail, have different costs.
ALIKE = {"requests": False, "queues": ["default"], "ends": 0, "hangs": 0}


def shape(name: str, tasks: int) -> Scenario:
    """Return the scenario: ``sequential`` runs one task at a time, ``burst`` all together."""
    workload: dict[str, Any] = {"sequential": {}, "burst": {"batch": 500, "due_between": [8, 8]}}[
        name
    ]
    return Scenario.model_validate(
        {
            "id": "cost",
            "hypothesis": "The cost of a task is within its budget.",
            "topology": {
                "apis": 1,
                "schedulers": 1,
                "workers": 1,
                "settings": {"trace_ratio": 0, "worker_concurrency": 100, "poll_seconds": 0.5},
            },
            "workload": {
                "tasks": tasks,
                "seconds": 20 if name == "sequential" else 4,
                "effects": {"ledger": 1},
                "handler_seconds": [0, 0],
                "timeout_seconds": 30,
                "ok_min": tasks,
                "differences": ALIKE,
                **workload,
            },
            "expect": {"always": ["S1", "S2", "S3"], "eventually": {"L1": "computed"}},
        }
    )


def spent(scenario: Scenario, foundation: SharedServers, tmp_path: Path) -> Counter[str]:
    """Run the scenario and return everything it cost, until the harness reads all tasks."""
    counts: Counter[str] = Counter()
    at_rest = False

    def statement(each: ExecutedStatement) -> None:
        counts["statements"] += not at_rest and each.client.partition("-")[0] in _ROLES

    def watch(stage: SimulatedEnvironment) -> None:
        stage.postgres.listeners.append(statement)

    def tap(message: Message) -> bool:
        nonlocal at_rest
        sender, _, server = message.edge.partition("->")
        at_rest |= sender == "harness" and b"GET /tasks" in message.data
        if not at_rest and sender.partition("-")[0] in _ROLES:
            if message.stream == "upstream":
                counts[f"round trips to {server}"] += 1
            counts[f"bytes to and from {server}"] += len(message.data)
        return True

    control = foundation.postgres.control
    control.rows("SELECT pg_stat_reset()")
    ran = simulate(
        RunSpec(ArenaName.SIMULATION, scenario, 1, tmp_path),
        foundation,
        SimulationOptions(tap=tap, on_environment=watch),
    )
    assert ran.judgement.verdict == "true", ran.judgement.verdict
    inserted, updated, deleted = (int(each) for each in control.rows(_ROWS)[0])
    counts.update({"rows inserted": inserted, "rows updated": updated, "rows deleted": deleted})
    return counts


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["sequential", "burst"])
def test_task_cost_is_within_budget(
    name: str, simulation_servers: SharedServers, tmp_path: Path
) -> None:
    few, many = {"sequential": (10, 40), "burst": (500, 2000)}[name]
    less, more = (spent(shape(name, n), simulation_servers, tmp_path) for n in (few, many))
    cost = {what: (more[what] - less[what]) / (many - few) for what in more | less}
    budget: dict[str, float] = BUDGETS[name]
    assert cost.keys() <= budget.keys()
    over = {what: (each, budget[what]) for what, each in cost.items() if each > budget[what]}
    assert not over, f"over budget for {name}, (cost, budget) per task: {over}"
    idle = {what for what, most in budget.items() if cost.get(what, 0.0) < 0.9 * most}
    assert not idle, f"the budget of {name} is far above the cost, {cost}: lower it"
