"""Decide whether an arena can run a scenario."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.errors import ChaosError
from chaos.history.records import ArenaName
from chaos.scenario.conditions import CONDITIONS
from chaos.scenario.scenario import Scenario


class Unfit(ChaosError):
    """The arena cannot run the scenario; the message says why, in one line."""


def require_fit(scenario: Scenario, arena: ArenaName) -> None:
    """Raise Unfit for a scenario that the arena cannot run; a storm draws what each arena can."""
    for what, why in _obstacles(scenario, arena):
        raise Unfit(f"{scenario.id}: {what}: {why}; run this scenario with --arena live")


def _obstacles(scenario: Scenario, arena: ArenaName) -> Iterator[tuple[str, str]]:
    """Yield what the arena lacks, and why."""
    if arena is ArenaName.SIMULATION:
        for name in scenario.topology.environment:
            if why := CONDITIONS[name].unsimulated:
                yield name, why
    if arena is ArenaName.COMPOSE:
        for name in scenario.topology.environment:
            yield name, "the servers are configured by docker-compose.yml"
        for fault in scenario.faults:
            if fault.fault in _UNCONTAINED:
                yield fault.name or fault.fault, _UNCONTAINED[fault.fault]


# Faults that containers do not support.
_UNCONTAINED = {
    "skew": "a container has no clock of its own",
    "demote": "a container keeps its address",
    "silent_drop": "Toxiproxy cannot tell new connections from old ones",
}
