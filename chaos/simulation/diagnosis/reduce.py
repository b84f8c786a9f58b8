"""Smaller variants of a failing scenario, the boldest first; pure.

Everything is named by labels that survive small changes of the code: faults by their names, tasks
by their numbers in the workload. A variant that is no valid scenario is not offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError

from chaos.scenario.scenario import Scenario
from chaos.simulation.diagnosis.variants import InjectedFault, VariantResult

_T = TypeVar("_T")
_Document = dict[str, Any]
# Of a list, chunks of a half, a quarter and an eighth are left out; more when it got shorter.
_CHUNKS_MAX = 8
_SHORTEST_SECONDS = 0.1
_OPERATIONS = ("repeat", "mismatch", "cancel", "get", "list")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A smaller variant, and what was left out or made shorter."""

    what: str
    scenario: Scenario


Pass = Callable[[Scenario, VariantResult, str], Iterator[Candidate]]
"""From a scenario, how it went, and the law that broke."""


def base(scenario: Scenario, seed: int, law: str, name: str) -> Scenario:
    """The concrete scenario of a seed under another name, expecting only what the law needs.

    The run is the same; only what it is judged by is less.
    """
    document = scenario.drawn(seed).document
    expect = document["expect"]
    kept = {key: value for key, value in expect["eventually"].items() if key in {law, "L1"}}
    document["expect"] = {"always": expect["always"], "eventually": kept}
    document["id"] = name
    document["hypothesis"] = (
        f"Seed {seed} of {scenario.id} violated {law} here, in the simulation; it does no more."
    )
    return Scenario.model_validate(document)


def concrete(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """Each strike a fault of its own, at the second and on the targets that it really had."""
    if not any(plan.times > 1 or plan.after or plan.until for plan in scenario.faults):
        return
    strikes = {strike.fault_id: strike for strike in tried.strikes}
    faults: list[_Document] = []
    for plan, fault in zip(scenario.faults, scenario.document["faults"], strict=True):
        for number, fault_id in enumerate(plan.fault_ids, start=1):
            if fault_id in strikes:
                name = plan.name if plan.times == 1 else f"{plan.name}-{number}"
                faults.append(fault | {"name": name} | _pinned(fault, strikes[fault_id]))
    yield from _offer("each strike by itself", scenario, {"faults": faults})


def _pinned(fault: _Document, strike: InjectedFault) -> _Document:
    lasts = fault["for"]
    if fault["until"] is not None and strike.ended is not None:
        lasts = max(_SHORTEST_SECONDS, round(strike.ended - strike.at, 3))
    free: _Document = {"after": None, "until": None, "every": None, "times": 1, "pick": None}
    where = {"at": round(strike.at, 3), "target": list(strike.targets), "for": lasts}
    return free | where


def fewer_tasks(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """Only the tasks that broke the law; then half of the others, and so on."""
    numbers = list(scenario.workload.only or range(scenario.workload.tasks))
    broken = [b.number for b in tried.broken if b.law == law and b.number is not None]
    needed = broken[:1]
    for kept in _shorter([n for n in numbers if n not in needed]):
        only = sorted([*needed, *kept])
        if only:
            change = {"workload": scenario.document["workload"] | {"only": only}}
            yield from _offer(f"{len(only)} of {len(numbers)} tasks", scenario, change)


def shorter_load(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """No slots after that of the last task: it changes nothing for those before."""
    load = scenario.workload
    last = max(load.only or (load.tasks,)) + 1
    if last < load.tasks:
        seconds = round(load.seconds / load.tasks * last, 6)
        shorter = {"tasks": last, "seconds": seconds}
        change = {"workload": scenario.document["workload"] | shorter}
        yield from _offer(f"a load of {seconds:.1f} s", scenario, change)


def fewer_faults(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """None; half of them; and so on, down to all but one."""
    faults = scenario.document["faults"]
    for kept in _shorter(faults):
        names = " and ".join(fault["name"] for fault in faults if fault not in kept)
        yield from _offer(f"without {names}", scenario, {"faults": kept})


def fewer_processes(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """One of each role; then one less of one."""
    document = scenario.document
    topology = document["topology"]
    roles = ("apis", "schedulers", "workers")
    if document["survivors"] is not None:
        yield from _offer("all processes are healed", scenario, {"survivors": None})
    for role in roles:
        for count in sorted({1, topology[role] - 1}):
            if 1 <= count < topology[role]:
                change = {"topology": topology | {role: count}}
                yield from _offer(f"{count} {role}", scenario, change)


def fewer_operations(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """Nothing but submits; then all but one kind of operation."""
    load = scenario.document["workload"]
    left = [kind for kind in _OPERATIONS if kind not in load["without"]]
    alone: _Document = dict.fromkeys(("repeats", "mismatches", "cancels", "reads"), 0.0)
    if any(load[name] for name in alone):  # drawn otherwise, so less likely to break it again
        change = {"workload": load | alone | {"without": []}}
        yield from _offer("nothing but submits", scenario, change)
    for gone in (left, *([kind] for kind in left)) if left else ():
        without = [kind for kind in _OPERATIONS if kind in {*load["without"], *gone}]
        change = {"workload": load | {"without": without}}
        yield from _offer(f"without {', '.join(gone)}", scenario, change)


def simpler_load(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """One kind of effect, no batches, no failures, nothing due later."""
    load = scenario.document["workload"]
    alone = {"ledger": 1.0, "sql": 0.0, "external": 0.0}
    changes: dict[str, _Document] = {
        "no batches": {"batch": 1},
        "no failing attempts": {"flaky": load["flaky"] | {"share": 0.0}},
        "nothing due later": {"later": load["later"] | {"share": 0.0}},
        "effects in the ledger only": {"effects": alone},
    }
    for what, change in changes.items():
        if any(load[key] != value for key, value in change.items()):
            yield from _offer(what, scenario, {"workload": load | change})


def shorter_faults(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """A fault half as long, or struck half as often."""
    faults = scenario.document["faults"]
    for place, fault in enumerate(faults):
        changes: list[tuple[str, _Document]] = []
        if fault["times"] > 1:
            times = fault["times"] // 2
            every = fault["every"] if times > 1 else None
            changes.append((f"{times} times", {"times": times, "every": every}))
        lasts = fault["for"]
        if lasts is not None and lasts / 2 >= _SHORTEST_SECONDS:
            half = round(lasts / 2, 2)
            changes.append((f"for {half} s", {"for": half}))
        for what, change in changes:
            smaller = [*faults[:place], fault | change, *faults[place + 1 :]]
            yield from _offer(f"{fault['name']} {what}", scenario, {"faults": smaller})


def fewer_settings(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """Defaults instead of settings of the scenario's own."""
    topology = scenario.document["topology"]
    settings = topology["settings"]
    for kept in _shorter(list(settings)):
        gone = ", ".join(name for name in settings if name not in kept)
        change = {"topology": topology | {"settings": {name: settings[name] for name in kept}}}
        yield from _offer(f"default {gone}", scenario, change)


# In this order: first what a reader wants to be small, and what makes the next runs short.
PASSES: tuple[Pass, ...] = (
    concrete,
    fewer_faults,
    fewer_tasks,
    shorter_load,
    fewer_processes,
    fewer_operations,
    simpler_load,
    shorter_faults,
    fewer_settings,
)


def size(scenario: Scenario) -> Mapping[str, int]:
    """What there is of each, for people."""
    load, topology = scenario.workload, scenario.topology
    return MappingProxyType(
        {
            "strikes": sum(plan.times for plan in scenario.faults),
            "tasks": load.tasks if load.only is None else len(load.only),
            "processes": len(topology.processes),
            "settings": len(topology.settings),
        }
    )


def _shorter(items: Sequence[_T]) -> Iterator[list[_T]]:
    """Nothing of it, then all but a half, a quarter, ... (the ``ddmin`` of delta debugging)."""
    if items:
        yield []
    chunks = 2
    while chunks <= min(len(items), _CHUNKS_MAX):
        cuts = [len(items) * n // chunks for n in range(chunks + 1)]
        for start, stop in pairwise(cuts):
            yield [*items[:start], *items[stop:]]
        chunks *= 2


def _offer(what: str, scenario: Scenario, change: _Document) -> Iterator[Candidate]:
    """The variant, if it is a valid scenario and another one."""
    try:
        smaller = Scenario.model_validate(scenario.document | change)
    except ValidationError:
        return
    if smaller != scenario:
        yield Candidate(what, smaller)
