"""Find what keeps a run from proving anything: reasons for the verdict ``unknown``.

An invariant that holds in a run proves nothing if the run was not the one that was planned: with
other operations, without its faults, or without what it had to provoke.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from chaos.checker.bounds import allowed
from chaos.checker.fault_doubts import fault_doubts
from chaos.checker.planned_operations import operation_doubts
from chaos.checker.sink_doubts import sink_doubts
from chaos.checker.sometimes import count_occurrences
from chaos.history.history import History
from chaos.scenario.scenario import Scenario

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
        yield from sink_doubts(history)
    yield from fault_doubts(history, scenario)
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


def accepted(history: History) -> int:
    """Count the tasks that were reported as accepted to some client."""
    ids = {s.value.get("task_id") for s in history.of("submit") if s.type == "ok"}
    return len(ids - {None})
