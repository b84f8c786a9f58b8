"""Collect the declared invariants by name, in the order of the vocabulary.

S14 (the same seed gives the same run) compares two runs: it is a test of the simulated arena.
L3 (fairness) is measured by the load tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from chaos.checker.invariants import (
    clients,
    counters,
    dispatch_order,
    due_times,
    effects,
    event_log,
    hints,
    listings,
    liveness,
    metrics,
    outcomes,
    overload,
    planned_ends,
    readiness,
    refusals,
    starvation,
    stored,
    task_answers,
    testimony,
    traces,
)
from chaos.checker.invariants.declaration import Invariant
from chaos.scenario.vocabulary import LIVENESS, SAFETY

_MODULES = (
    clients,
    counters,
    dispatch_order,
    due_times,
    effects,
    event_log,
    hints,
    listings,
    liveness,
    metrics,
    outcomes,
    overload,
    planned_ends,
    readiness,
    refusals,
    starvation,
    stored,
    task_answers,
    testimony,
    traces,
)


def _declared() -> Iterator[tuple[str, Invariant]]:
    found = {
        each.name: each
        for module in _MODULES
        for each in vars(module).values()
        if isinstance(each, Invariant)
    }
    for name in (*SAFETY, *LIVENESS):
        yield name, found[name]


INVARIANTS: Mapping[str, Invariant] = MappingProxyType(dict(_declared()))
