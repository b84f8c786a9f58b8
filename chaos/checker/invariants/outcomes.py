"""Compare how attempts ended with what their handlers were told: S20. O(n)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.disturbance import disturbances
from chaos.checker.invariants.told import Attempt, Told, configuration, told
from chaos.checker.invariants.violation import Violation
from chaos.checker.model.outcome import Ended, Limits, objection
from chaos.history.history import History
from chaos.history.records import parse_instant
from holdfast.model.lifecycle import Reason

_RETIRED = "stopped"  # what the row of a worker says that ended by itself
_NEVER = datetime.min.replace(tzinfo=UTC)


@invariant("S20", "the end of each attempt with the steps of its payload")
def ended_as_told(history: History) -> list[Violation]:
    """An attempt ends as its handler was told to, or by an interruption that the log explains.

    It is lost only if its worker was marked dead, cancelled only on request, timed out only after
    the timeout asked for (by a scheduler: after the grace, too), handed back only by a worker that
    was stopping or does not know the name, and failed otherwise only where the effect could not be
    made. Its handler had the time to run.
    """
    owners = _Owners(history)
    return [
        Violation("S20", task.row.task_id, message, (attempt.claim, attempt.end))
        for task in told(history).values()
        for attempt in task.attempts()
        for message in _objections(history, owners, task, attempt)
    ]


def _objections(history: History, owners: _Owners, task: Told, attempt: Attempt) -> Iterator[str]:
    if task.declared is None:
        return
    claimed = history.seconds(attempt.claim.at)
    wrong = objection(
        owners.evidence(attempt, task.declared.effect),
        task.step(attempt.number).get("do"),
        task.declared.effect,
        Limits(
            timeout_seconds=task.stored.timeout_seconds,
            grace_seconds=configuration(history).timeout_grace_seconds,
            handler_seconds=float(task.stored.payload.get("seconds", 0.0)),
            claim_seconds=disturbances(history).claim_seconds(claimed),
        ),
    )
    if wrong:
        yield f"attempt {attempt.number} {attempt.kind}, but {wrong}"


class _Owners:
    """What the log says about the incarnations that own attempts."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._topology = history.run.scenario.get("topology", {})
        # When the last task was dispatched that an incarnation claimed: it was not stopping yet.
        self._busy: defaultdict[str, datetime] = defaultdict(lambda: _NEVER)
        for events in history.events.values():
            dispatched = _NEVER
            for event in events:
                if event.reason == Reason.DISPATCHED:
                    dispatched = parse_instant(event.at)
                elif event.reason == Reason.CLAIMED:
                    self._busy[event.actor] = max(self._busy[event.actor], dispatched)

    def evidence(self, attempt: Attempt, effect: str) -> Ended:
        """Return what the log says about this end, of a handler with this kind of effect."""
        actor, ended = attempt.claim.actor, parse_instant(attempt.end.at)
        worker = self._history.workers.get(actor.removeprefix("worker:"))
        dead_at = worker.dead_at if worker else None
        dead = dead_at is not None and parse_instant(dead_at) <= ended
        knows = self._topology.get("knows", {}).get(worker.label if worker else "", (effect,))
        return Ended(
            end=attempt.kind,
            seconds=attempt.seconds,
            by_scheduler=attempt.by_scheduler,
            owner_dead=dead,
            owner_stopped=self._busy[actor] <= ended,
            owner_retired=dead and worker is not None and worker.dead_reason == _RETIRED,
            knows_name=effect in knows,
            cancel_requested=attempt.life.cancel_requested,
            error=str(attempt.error.get("type", "")),
            message=str(attempt.error.get("message", "")),
        )
