"""Generate smaller variants of a failing scenario, the largest reductions first. Pure.

Faults are identified by name and tasks by their number in the workload, which survive small changes
of the code. Only valid scenarios are generated.
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
# Chunks of a half, a quarter and an eighth of a list are left out.
_CHUNKS_MAX = 8
_SHORTEST_SECONDS = 0.1
_OPERATIONS = ("repeat", "mismatch", "cancel", "retry", "get", "events", "list")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A smaller variant and a description of the reduction."""

    what: str
    scenario: Scenario


Pass = Callable[[Scenario, VariantResult, str], Iterator[Candidate]]
"""Generates candidates from a scenario, the result of its run, and the violated invariant."""


def base(scenario: Scenario, seed: int, law: str, name: str) -> Scenario:
    """Return the scenario drawn from a seed, renamed, expecting only what the invariant needs.

    The run is unchanged; only fewer expectations are judged.
    """
    document = scenario.drawn(seed).document
    expect = document["expect"]
    kept = {key: value for key, value in expect["eventually"].items() if key in {law, "L1"}}
    document["expect"] = {"always": expect["always"], "eventually": kept}
    document["id"] = name
    document["hypothesis"] = (
        f"Seed {seed} of {scenario.id} violated {law} in the simulation and no longer does."
    )
    return Scenario.model_validate(document)


def concrete(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """Make each injection a separate fault with the time and targets that it had in the run."""
    if not any(plan.times > 1 or plan.after or plan.until for plan in scenario.faults):
        return
    injected = {fault.fault_id: fault for fault in tried.faults}
    faults: list[_Document] = []
    for plan, fault in zip(scenario.faults, scenario.document["faults"], strict=True):
        for number, fault_id in enumerate(plan.fault_ids, start=1):
            if fault_id in injected:
                name = plan.name if plan.times == 1 else f"{plan.name}-{number}"
                faults.append(fault | {"name": name} | _pinned(fault, injected[fault_id]))
    yield from _offer("each injection a separate fault", scenario, {"faults": faults})


def _pinned(fault: _Document, injected: InjectedFault) -> _Document:
    lasts = fault["for"]
    if fault["until"] is not None and injected.ended is not None:
        lasts = max(_SHORTEST_SECONDS, round(injected.ended - injected.at, 3))
    free: _Document = {"after": None, "until": None, "every": None, "times": 1, "pick": None}
    where = {"at": round(injected.at, 3), "target": list(injected.targets), "for": lasts}
    return free | where


def fewer_tasks(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """Keep only the violating task; then also half of the others, and so on."""
    numbers = list(scenario.workload.only or range(scenario.workload.tasks))
    broken = [b.number for b in tried.broken if b.law == law and b.number is not None]
    needed = broken[:1]
    for kept in _shorter([n for n in numbers if n not in needed]):
        only = sorted([*needed, *kept])
        if only:
            change = {"workload": scenario.document["workload"] | {"only": only}}
            yield from _offer(f"{len(only)} of {len(numbers)} tasks", scenario, change)


def shorter_load(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """End the load after its last task, which changes nothing for the earlier ones.

    The number of tasks stays: which of them hang or kill is drawn from all of them.
    """
    load = scenario.workload
    last = max(load.only or (load.tasks,)) + 1
    spread = load.within or load.seconds
    seconds = round(spread / load.tasks * last, 6)
    if last < load.tasks and seconds < load.seconds:
        change = {
            "workload": scenario.document["workload"] | {"seconds": seconds, "within": spread}
        }
        yield from _offer(f"a load of {seconds:.1f} s", scenario, change)


def fewer_faults(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """Keep no fault; then leave out half of them, a quarter, and so on."""
    faults = scenario.document["faults"]
    for kept in _shorter(faults):
        names = " and ".join(fault["name"] for fault in faults if fault not in kept)
        yield from _offer(f"without {names}", scenario, {"faults": kept})


def fewer_processes(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """Keep one process of a role; else leave out one."""
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
    """Keep only submits; else leave out one kind of operation."""
    load = scenario.document["workload"]
    left = [kind for kind in _OPERATIONS if kind not in load["without"]]
    only: _Document = dict.fromkeys(("repeats", "mismatches", "cancels", "reads", "invalid"), 0.0)
    if any(load[name] for name in only):  # changes the draws, so less likely to fail
        change = {"workload": load | only | {"without": []}}
        yield from _offer("only submits", scenario, change)
    for gone in (left, *([kind] for kind in left)) if left else ():
        without = [kind for kind in _OPERATIONS if kind in {*load["without"], *gone}]
        change = {"workload": load | {"without": without}}
        yield from _offer(f"without {', '.join(gone)}", scenario, change)


def simpler_load(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """Simplify the workload: alike tasks, one effect, no batches, no failures, none later."""
    load = scenario.document["workload"]
    only = {"ledger": 1.0, "sql": 0.0, "external": 0.0}
    same = {"requests": False, "queues": ["default"], "ends": 0.0, "hangs": 0}
    changes: dict[str, _Document] = {
        "no batches": {"batch": 1, "invalid": 0.0},
        "no unusual ends": {"differences": load["differences"] | {"ends": 0.0, "hangs": 0}},
        "no differences": {"differences": same},
        "no failing attempts": {"flaky": load["flaky"] | {"share": 0.0}},
        "no tasks due later": {"later": load["later"] | {"share": 0.0}},
        "effects in the ledger only": {"effects": only},
    }
    for what, change in changes.items():
        if any(load[key] != value for key, value in change.items()):
            yield from _offer(what, scenario, {"workload": load | change})


def shorter_faults(scenario: Scenario, tried: VariantResult, law: str) -> Iterator[Candidate]:
    """Halve the duration or the number of injections of a fault."""
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
    """Replace settings of the scenario by defaults."""
    topology = scenario.document["topology"]
    settings = topology["settings"]
    for kept in _shorter(list(settings)):
        gone = ", ".join(name for name in settings if name not in kept)
        change = {"topology": topology | {"settings": {name: settings[name] for name in kept}}}
        yield from _offer(f"default {gone}", scenario, change)


# The most useful reductions and those that shorten later runs come first.
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
    """Return the size of a scenario by part."""
    load, topology = scenario.workload, scenario.topology
    return MappingProxyType(
        {
            "faults": sum(plan.times for plan in scenario.faults),
            "tasks": load.tasks if load.only is None else len(load.only),
            "processes": len(topology.processes),
            "settings": len(topology.settings),
        }
    )


def _shorter(items: Sequence[_T]) -> Iterator[list[_T]]:
    """Yield nothing, then all but a half, a quarter, ... (``ddmin`` of delta debugging)."""
    if items:
        yield []
    chunks = 2
    while chunks <= min(len(items), _CHUNKS_MAX):
        cuts = [len(items) * n // chunks for n in range(chunks + 1)]
        for start, stop in pairwise(cuts):
            yield [*items[:start], *items[stop:]]
        chunks *= 2


def _offer(what: str, scenario: Scenario, change: _Document) -> Iterator[Candidate]:
    """Yield the changed scenario if it is valid and differs."""
    try:
        smaller = Scenario.model_validate(scenario.document | change)
    except ValidationError:
        return
    if smaller != scenario:
        yield Candidate(what, smaller)
