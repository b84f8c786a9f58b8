"""Compare the injections of a run with the faults that its scenario plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from chaos.checker.evidence import LEAST_SHARE, evidence_doubts
from chaos.history.history import History
from chaos.history.records import ArenaName, Fault
from chaos.scenario.faults import FaultSpec
from chaos.scenario.scenario import Scenario
from chaos.scenario.vocabulary import TargetKind

# How far from its plan a fault may begin, and how much longer it may last.
_OFF_SECONDS = 2.0
_ROUNDING_SECONDS = 0.1

_Injection = Mapping[str, Fault]


def fault_doubts(history: History, scenario: Scenario) -> Iterator[str]:
    """Yield how the injections differ from the plan, or may not have happened."""
    for plan in scenario.faults:
        found: dict[str, _Injection] = {
            fault_id: {record.type: record for record in history.faults[fault_id]}
            for fault_id in plan.fault_ids
            if fault_id in history.faults
        }
        open_tasks = 0
        for fault_id in plan.fault_ids:
            start = found.get(fault_id, {}).get("start")
            if start is None:
                yield f"fault {fault_id} was never injected"
                continue
            yield from _one(history, scenario, plan, found[fault_id])
            open_tasks = max(open_tasks, start.in_flight.open if start.in_flight else 0)
        if found and not open_tasks:
            yield f"fault {plan.name} was injected while no task was in flight"
        yield from _mistimed(history, scenario, plan, found)
    planned = {fault_id for plan in scenario.faults for fault_id in plan.fault_ids}
    for fault_id in sorted(history.faults.keys() - planned):
        yield f"fault {fault_id} was injected, but the scenario does not plan it"


def _one(
    history: History, scenario: Scenario, plan: FaultSpec, records: _Injection
) -> Iterator[str]:
    start, felt, end = records["start"], records.get("felt"), records.get("end")
    if len(records) < len(history.faults[start.fault_id]):
        yield f"fault {start.fault_id} was injected more than once"
    if felt is None:
        yield f"fault {start.fault_id} was injected, but not observed"
    else:
        yield from evidence_doubts(history, scenario, plan, start, felt)
    if end is None:
        yield f"fault {start.fault_id} has no end"
    elif end.at > history.phases.get("healing", history.phases.get("healed", end.at)):
        yield f"fault {start.fault_id} ended after the heal"
    else:
        yield from _wrong_length(history, scenario, plan, start, end)


def _wrong_length(
    history: History, scenario: Scenario, plan: FaultSpec, start: Fault, end: Fault
) -> Iterator[str]:
    """Yield whether a fault lasted shorter or longer than planned; an event may end it earlier."""
    name, lasted = f"fault {start.fault_id}", end.at - start.at
    if plan.target_kind is TargetKind.SERVER and plan.fault == "restart":
        return  # it lasts as long as the restart
    if not end.held_seconds:
        yield f"{name} was not held"
        return
    shortest, longest = min(end.held_seconds), max(end.held_seconds)
    if longest > lasted + _ROUNDING_SECONDS:
        yield f"{name} was held for {longest:.2f} s, but lasted {lasted:.2f} s"
    planned = plan.for_seconds
    if planned is None:
        load = scenario.workload.last_due_seconds
        if end.at < load - _ROUNDING_SECONDS:
            yield f"{name} ended at {end.at:.1f} s, planned was the end of the load, {load:.1f} s"
        return
    late = longest > planned + _tolerance(history, scenario)
    if late or (plan.until is None and shortest < LEAST_SHARE * planned):
        held = longest if late else shortest
        yield f"{name} was held for {held:.2f} s, planned was {planned:.2f} s"


def _mistimed(
    history: History, scenario: Scenario, plan: FaultSpec, found: Mapping[str, _Injection]
) -> Iterator[str]:
    """Yield the injections that began late or early, or after the load.

    The first one after an event has no fixed time; the others follow it.
    """
    starts = {
        fault_id: records["start"] for fault_id, records in found.items() if "start" in records
    }
    first = plan.at
    if first is None:
        before = starts.get(plan.fault_ids[0])
        first = before.at if before else None
    tolerance, load_end = _tolerance(history, scenario), history.view(_load_end)
    for number, fault_id in enumerate(plan.fault_ids):
        start = starts.get(fault_id)
        if start is None or first is None:
            continue
        planned = first + number * (plan.every or 0.0)
        if abs(start.at - planned) > tolerance:
            yield (
                f"fault {fault_id} began at {start.at:.1f} s, planned was {planned:.1f} s "
                f"(at most {tolerance:g} s off)"
            )
        if plan.at is not None and start.at > max(load_end, scenario.workload.last_due_seconds):
            yield f"fault {fault_id} began when the load was over"


def _tolerance(history: History, scenario: Scenario) -> float:
    """Return how far off a fault may be: on real machines one heartbeat, if that is longer.

    A heartbeat is the grain in which its effects show.
    """
    if history.run.arena is ArenaName.SIMULATION:
        return _OFF_SECONDS
    return max(_OFF_SECONDS, scenario.settings().heartbeat_seconds)


def _load_end(history: History) -> float:
    """Return the second of the last completion of a client; 0 without one."""
    completions = (operation.completion for operation in history.operations.values())
    return max((each.at for each in completions if each is not None), default=0.0)
