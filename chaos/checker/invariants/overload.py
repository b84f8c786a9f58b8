"""Check overload: S17 (the queue stays bounded), L5 (no capacity is lost)."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.violation import Violation
from chaos.history.history import History
from chaos.history.records import Event
from chaos.scenario.scenario import Scenario
from holdfast.model.lifecycle import TERMINAL, State

# Share of the backlog at the heal that L5 measures: at its very end idle slots are expected.
_MEASURED_SHARE = 0.9


@invariant("S17", "the QUEUED tasks of each instant with the setting")
def queue_bounded(history: History) -> list[Violation]:
    """The number of QUEUED tasks of a queue never exceeds its bound.

    The dispatch statement counts the free room it fills, and schedulers do not serialise on it:
    each of n schedulers may fill the room it saw, so the bound is n times ``queue_depth_max``.
    Redis holds hints for QUEUED tasks only, so this bounds its memory too.
    """
    scenario = Scenario.model_validate(history.run.scenario)
    depth = scenario.settings().queue_depth_max
    allowed = depth * scenario.topology.schedulers
    moves = [
        (event.at, _step(event), event)
        for events in history.events.values()
        for event in events
        if _step(event)
    ]
    queued: Counter[str] = Counter()
    for _, step, event in sorted(moves, key=lambda move: move[:2]):
        task = history.tasks.get(event.task_id)
        queue = task.queue if task else ""
        queued[queue] += step
        if queued[queue] > allowed:
            message = f"{queued[queue]} tasks were QUEUED at once, {allowed} allowed"
            return [Violation("S17", event.task_id, message, (event,))]
    return []


@invariant("L5", "the rate of ends after the overload with that before")
def capacity_kept(history: History) -> list[Violation]:
    """The backlog left by an overload drains at no less than the given share of the earlier rate.

    The earlier rate is that at which tasks ended while the load lasted.
    """
    healed = history.phases.get("healed")
    share = history.run.scenario.get("expect", {}).get("eventually", {}).get("L5")
    if healed is None or not isinstance(share, int | float):
        return []
    ends = sorted(
        (
            event
            for events in history.events.values()
            for event in events
            if event.to_state in TERMINAL
        ),
        key=lambda event: event.at,
    )
    instants = [history.seconds(event.at) for event in ends]
    before = bisect_right(instants, healed)
    after = int(_MEASURED_SHARE * (len(ends) - before))
    if before < 2 or after < 2:
        return []
    normal = _rate(instants[:before])
    then = _rate(instants[before : before + after])
    if then >= share * normal:
        return []
    message = f"{then:.1f} tasks/s ended after the load, {normal:.1f}/s while it lasted"
    return [Violation("L5", None, f"{message} ({share:.0%} required)", (ends[before],))]


def _step(event: Event) -> int:
    """Return by how much the event changes the number of QUEUED tasks."""
    return (event.to_state == State.QUEUED) - (event.from_state == State.QUEUED)


def _rate(instants: Sequence[float]) -> float:
    return (len(instants) - 1) / max(instants[-1] - instants[0], 1e-6)
