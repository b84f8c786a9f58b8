"""When more comes than can be done: S17 (the queue keeps its bound), L5 (no capacity is lost)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from chaos.history import History
from chaos.invariants.violation import Violation
from chaos.records import Event
from chaos.scenario import Scenario
from system.lifecycle import TERMINAL, State

# Of the backlog at the heal: at its very end slots are idle, and that is no lack of capacity.
_WORKED_OFF_SHARE = 0.9


def queue_bounded(history: History) -> list[Violation]:
    """S17: at no time are more tasks QUEUED than every scheduler may see room for at once.

    The room is counted in the statement that fills it, and schedulers do not wait for each other:
    of n schedulers each may fill what it saw, so that the bound is n times ``queue_depth_max``.
    What is QUEUED is what Redis has hints of, so this bounds its memory, too.
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
    queued = 0
    for _, step, event in sorted(moves, key=lambda move: move[:2]):
        queued += step
        if queued > allowed:
            message = f"{queued} tasks were QUEUED at once, {allowed} allowed"
            return [Violation("S17", event.task_id, message, (event,))]
    return []


def capacity_kept(history: History) -> list[Violation]:
    """L5: the backlog that an overload leaves is worked off at no less than the given share of the
    rate at which tasks ended while the load lasted.
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
    after = int(_WORKED_OFF_SHARE * (len(ends) - before))
    if before < 2 or after < 2:
        return []
    normal = _rate(instants[:before])
    then = _rate(instants[before : before + after])
    if then >= share * normal:
        return []
    message = f"{then:.1f} tasks/s ended after the load, {normal:.1f}/s while it lasted"
    return [Violation("L5", None, f"{message} ({share:.0%} asked)", (ends[before],))]


def _step(event: Event) -> int:
    """How many more are QUEUED after it."""
    return (event.to_state == State.QUEUED) - (event.from_state == State.QUEUED)


def _rate(instants: Sequence[float]) -> float:
    return (len(instants) - 1) / max(instants[-1] - instants[0], 1e-6)
