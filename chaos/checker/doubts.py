"""Find what keeps a run from proving anything: reasons for the verdict ``unknown``.

An invariant that holds in a run proves nothing if the run was not the one that was planned: with
other operations, without its faults, or without what it had to provoke.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from chaos.checker.bounds import allowed
from chaos.checker.planned_operations import operation_doubts
from chaos.checker.sometimes import count_occurrences
from chaos.history.history import History
from chaos.history.records import ArenaName
from chaos.scenario.faults import FaultSpec
from chaos.scenario.scenario import Scenario

# How far a fault with a fixed time may begin from it.
_OFF_SECONDS = 2.0
_ROUNDING_SECONDS = 0.001


def doubts_of(history: History, scenario: Scenario) -> Iterator[str]:
    """Yield the doubts of a run, one sentence each."""
    for phase in ("faults", "healed", "drained"):
        if phase not in history.phases:
            yield f"the history is incomplete: it has no phase {phase}"
    found, least = accepted(history), scenario.workload.least_accepted
    if found < least:
        yield f"only {found} submits were accepted, at least {least} are needed"
    yield from _bound_doubts(history, scenario)
    if "drained" in history.phases:  # the operations are recorded just before
        yield from operation_doubts(history, scenario)
    for plan in scenario.faults:
        yield from _fault_doubts(history, plan)
        yield from _mistimed(history, scenario, plan)
    planned = {fault_id for plan in scenario.faults for fault_id in plan.fault_ids}
    for fault_id in sorted(history.faults.keys() - planned):
        yield f"fault {fault_id} was injected, but the scenario does not plan it"
    for name in scenario.expect.sometimes:
        if not count_occurrences(history, name):
            yield f"{name} was never seen"


def _bound_doubts(history: History, scenario: Scenario) -> Iterator[str]:
    """Yield how the recorded T and settings differ from what the scenario and they imply."""
    run = history.run
    declared = scenario.topology.settings
    if wrong := sorted(name for name in declared if run.settings.get(name) != declared[name]):
        yield f"the recorded settings are not those of the scenario: {', '.join(wrong)}"
    topology = scenario.topology.model_copy(update={"settings": run.settings})
    recorded = scenario.model_copy(update={"topology": topology})
    try:
        seconds = allowed(recorded, run.backoff).seconds
    except ValidationError:
        yield "the recorded settings are not settings of Holdfast"
        return
    if abs(seconds - run.bound.seconds) > _ROUNDING_SECONDS:
        yield f"T was recorded as {run.bound.seconds:.2f} s, the settings imply {seconds:.2f} s"


def _fault_doubts(history: History, plan: FaultSpec) -> Iterator[str]:
    open_tasks = 0
    for fault_id in plan.fault_ids:
        records = {record.type: record for record in history.faults.get(fault_id, ())}
        start, end = records.get("start"), records.get("end")
        if start is None:
            yield f"fault {fault_id} was never injected"
            continue
        if "felt" not in records:
            yield f"fault {fault_id} was injected, but not observed"
        if end is not None and end.at > history.phases.get("healed", end.at):
            yield f"fault {fault_id} ended after the heal"
        open_tasks = max(open_tasks, start.in_flight.open if start.in_flight else 0)
    if any(fault_id in history.faults for fault_id in plan.fault_ids) and not open_tasks:
        yield f"fault {plan.name} was injected while no task was in flight"


def _mistimed(history: History, scenario: Scenario, plan: FaultSpec) -> Iterator[str]:
    """Yield the injections that began late, early or after the load, if they have a fixed time.

    On real machines a fault may be late by one heartbeat, the grain in which its effects show.
    """
    if plan.at is None:
        return
    tolerance = _OFF_SECONDS
    if history.run.arena is not ArenaName.SIMULATION:
        tolerance = max(tolerance, scenario.settings().heartbeat_seconds)
    for number, fault_id in enumerate(plan.fault_ids):
        planned = plan.at + number * (plan.every or 0.0)
        for record in history.faults.get(fault_id, ()):
            if record.type != "start":
                continue
            if abs(record.at - planned) > tolerance:
                yield (
                    f"fault {fault_id} began at {record.at:.1f} s, planned was {planned:.1f} s "
                    f"(at most {tolerance:g} s off)"
                )
            if record.at > _load_end(history, scenario):
                yield f"fault {fault_id} began when the load was over"


def _load_end(history: History, scenario: Scenario) -> float:
    """Return the second of the last completion of a client, or of the planned end if later."""
    ends = [op.completion.at for op in history.operations.values() if op.completion is not None]
    return max([scenario.workload.last_due_seconds, *ends])


def accepted(history: History) -> int:
    """Count the tasks that were reported as accepted to some client."""
    ids = {s.value.get("task_id") for s in history.of("submit") if s.type == "ok"}
    return len(ids - {None})
