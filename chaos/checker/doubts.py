"""Find what keeps a run from proving anything: reasons for the verdict ``unknown``.

An invariant that holds in a run proves nothing if the run was not the one that was planned: with
other operations, without its faults, or without what it had to provoke.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from chaos.checker.bounds import allowed
from chaos.checker.condition_doubts import condition_doubts
from chaos.checker.fault_doubts import fault_doubts
from chaos.checker.invariants.disturbance import undisturbed
from chaos.checker.invariants.hints import seconds_allowed
from chaos.checker.planned_operations import operation_doubts
from chaos.checker.sink_doubts import sink_doubts
from chaos.checker.sometimes import count_occurrences
from chaos.history.history import History
from chaos.history.records import ArenaName, Event
from chaos.scenario.scenario import Scenario

_ROUNDING_SECONDS = 0.001
# How far the clocks of the harness and of the database may be apart.
_CLOCK_SECONDS = 1.0


def doubts_of(history: History, scenario: Scenario, recorded: History) -> Iterator[str]:
    """Yield the doubts of a run, one sentence each.

    ``recorded``: the history before malformed completions were taken for unknown: a client sends
    its next operations by what it was answered.
    """
    for phase in ("faults", "healing", "healed", "drained"):
        if phase not in history.phases:
            yield f"the history is incomplete: it has no phase {phase}"
    found, least = accepted(history), scenario.workload.least_accepted
    if found < least:
        yield f"only {found} submits were accepted, at least {least} are needed"
    yield from _bound_doubts(history, scenario)
    if "drained" in history.phases:  # the operations are recorded just before
        yield from operation_doubts(recorded, scenario)
        yield from sink_doubts(history)
        yield from _order_doubts(history)
        yield from _rest_doubts(history)
        yield from condition_doubts(history, scenario)
    yield from _clock_doubts(history)
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


def _rest_doubts(history: History) -> Iterator[str]:
    """Yield what was not read although every task was terminal."""
    if "quiet" not in history.phases:
        return
    if history.run.arena is not ArenaName.COMPOSE:  # whose roles publish no port for it
        read = {scrape.actor for scrape in history.scrapes}
        if unread := sorted({*history.core} - read):
            yield f"the metrics of {', '.join(unread)} were not read"
    if not history.hints_at_rest:
        yield "the hints in Redis were not read"
    allowed = seconds_allowed(history.run.bound, calm=undisturbed(history))
    for rest in history.hints_at_rest:
        left = any(queue.entries or queue.pending for queue in rest.queues)
        if left and rest.waited_seconds < allowed:
            yield f"Redis held hints, but was read for {rest.waited_seconds:.1f} s only"


def _order_doubts(history: History) -> Iterator[str]:
    """Yield whether the final read has events in another order than that of their task."""
    last: dict[str, int] = {}
    wrong: set[str] = set()
    for record in history.records:
        if isinstance(record, Event):
            if record.seq < last.get(record.task_id, record.seq):
                wrong.add(record.task_id)
            last[record.task_id] = record.seq
    if wrong:
        yield f"the events of {len(wrong)} tasks were not read in their order"


def _clock_doubts(history: History) -> Iterator[str]:
    """Yield whether an accepted task was created outside of all submits of its key.

    Then the clock of the database is not that of the harness, as ``Run.database_epoch`` says.
    """
    off: list[float] = []
    for task_id, submits in history.submits_by_task.items():
        created = history.seconds(history.tasks[task_id].created_at)
        answers = [s.completion.at for s in submits if s.type == "ok" and s.completion is not None]
        if not answers:
            continue
        first, last = min(submit.invoke.at for submit in submits), min(answers)
        off.append(max(first - created, created - last, 0.0))
    wrong = [seconds for seconds in off if seconds > _CLOCK_SECONDS]
    if wrong:
        yield (
            f"{len(wrong)} of {len(off)} tasks were created up to {max(wrong):.1f} s before their "
            "first submit or after its answer: the clocks of database and harness differ"
        )


def accepted(history: History) -> int:
    """Count the tasks that were reported as accepted to some client."""
    ids = {s.value.get("task_id") for s in history.of("submit") if s.type == "ok"}
    return len(ids - {None})
