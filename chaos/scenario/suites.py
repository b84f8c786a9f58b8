"""Suites: names on the command line that stand for several scenarios."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from chaos.history.records import ArenaName
from chaos.scenario import scenario as scenarios
from chaos.scenario.fit import Unfit, require_fit
from chaos.scenario.scenario import Scenario

# Balanced: every part of the stack is broken in at least one way, in under six minutes.
_DEFAULT = (
    "calm",
    "workers_killed",
    "zombie_worker",
    "late_finish",
    "commit_reply_lost",
    "redis_amnesia",
    "redis_partition",
    "database_restart",
    "database_latency",
    "schedulers_killed",
    "api_killed",
    "cancel_storm",
    "poison_task",
    "storm",
)


def suites() -> Mapping[str, tuple[str, ...]]:
    """Return the names of scenarios by suite, in the order in which they run."""
    return MappingProxyType({"default": _DEFAULT, "full": scenarios.names()})


def spread(seeds: int) -> list[Scenario]:
    """Choose ``seeds`` scenarios to simulate: each equally often, storms for the remainder.

    Those with the most tasks come first, so that the end of the suite keeps all cores busy.
    """
    known = [each for each in map(scenarios.find, scenarios.names()) if _is_simulated(each)]
    every = sorted(known, key=lambda each: -each.workload.tasks)
    rounds, rest = divmod(seeds, len(every))
    return every * rounds + [scenarios.find("storm")] * rest


def _is_simulated(scenario: Scenario) -> bool:
    try:
        require_fit(scenario, ArenaName.SIMULATION)
    except Unfit:
        return False
    return True


def expand(names: list[str]) -> list[str]:
    """Replace the names of suites by their scenarios; an empty list means ``default``."""
    known = suites()
    return [each for name in names or ["default"] for each in known.get(name, (name,))]
