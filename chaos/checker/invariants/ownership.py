"""Check who ended and claimed attempts, and when: parts of S8 and S9.

Beside the event log they use refused writes and settings. Each check is O(n log n).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime

from chaos.checker.invariants.violation import Violation
from chaos.history.history import History
from chaos.history.records import Event, parse_instant
from chaos.scenario.scenario import Scenario
from holdfast.model.lifecycle import Reason, State
from holdfast.settings import Settings


def repeated_end_refused(history: History) -> Iterator[Violation]:
    """S8: a repeated end of an attempt is accepted, whatever has happened to the task since."""
    for task_id, writes in history.stale_writes.items():
        ends = {
            event.epoch: event
            for event in history.events.get(task_id, ())
            if event.from_state == State.RUNNING and event.to_state != State.RUNNING
        }
        for write in writes:
            end = ends.get(write.epoch + 1)
            if end is not None and end.actor == f"worker:{write.worker_id}":
                message = f"{write.outcome} under epoch {write.epoch} was refused to its own worker"
                yield Violation("S8", task_id, message, (end, write))


def ended_by_non_owner(history: History) -> Iterator[Violation]:
    """S9: only the incarnation that claimed an epoch tries to end it."""
    for task_id, writes in history.stale_writes.items():
        claims = {
            event.epoch: event
            for event in history.events.get(task_id, ())
            if event.reason == Reason.CLAIMED
        }
        for write in writes:
            claim = claims.get(write.epoch)
            if claim is not None and claim.actor != f"worker:{write.worker_id}":
                stranger = history.actor(f"worker:{write.worker_id}")
                message = f"{stranger} tried to end ({write.outcome}) epoch {write.epoch}, "
                message += f"which {history.actor(claim.actor)} had claimed"
                yield Violation("S9", task_id, message, (claim, write))


def owned_beyond_slots(history: History) -> Iterator[Violation]:
    """S9: no incarnation owns more attempts at once than it has slots."""
    default = Settings.model_fields["worker_concurrency"].default
    slots = int(history.run.settings.get("worker_concurrency", default))
    steps: defaultdict[str, list[tuple[datetime, int, Event]]] = defaultdict(list)
    for events in history.events.values():
        owner = ""
        for event in events:
            if event.reason == Reason.CLAIMED:
                owner = event.actor
                steps[owner].append((parse_instant(event.at), 1, event))
            elif event.from_state == State.RUNNING and event.to_state != State.RUNNING:
                steps[owner].append((parse_instant(event.at), -1, event))
    for owner, changes in steps.items():
        owned = 0
        for _, step, event in sorted(changes, key=lambda change: change[:2]):
            owned += step
            if owned > slots:
                message = f"{history.actor(owner)} owns {owned} attempts but has {slots} slots"
                yield Violation("S9", event.task_id, message, (event,))
                break  # one violation per incarnation


def claimed_without_lease(history: History) -> Iterator[Violation]:
    """S9: no incarnation claims a task dispatched after its lease was over.

    A worker counts its lease from the sending of a heartbeat, the database from its execution. So
    it sends no claim after the last lease in the database is over, or after an attempt of it was
    lost. Only a claim that it had sent before may still be granted, and that names older hints.
    """
    over = _leases_over(history)
    for task_id, events in history.events.items():
        dispatch: Event | None = None
        for event in events:
            if event.reason == Reason.DISPATCHED:
                dispatch = event
            if event.reason != Reason.CLAIMED or event.actor not in over or dispatch is None:
                continue
            late = (parse_instant(dispatch.at) - over[event.actor]).total_seconds()
            if late > 0:
                who = history.actor(event.actor)
                message = (
                    f"claimed by {who} after its lease was over: dispatched {late:.3f} s later"
                )
                yield Violation("S9", task_id, message, (dispatch, event))


def _leases_over(history: History) -> dict[str, datetime]:
    """Return when the lease of each actor was over: by its row, or by the loss of an attempt."""
    found = {
        f"worker:{worker.worker_id}": parse_instant(worker.lease_expires_at)
        for worker in history.workers.values()
    }
    for events in history.events.values():
        owner = ""
        for event in events:
            if event.reason == Reason.CLAIMED:
                owner = event.actor
            elif event.reason == Reason.LOST:
                at = parse_instant(event.at)
                found[owner] = min(at, found.get(owner, at))
    return found


def claimed_from_another_queue(history: History) -> Iterator[Violation]:
    """S9: a worker claims only tasks of the queues that the scenario gives it."""
    scenario = Scenario.model_validate(history.run.scenario)
    queues = {name: scenario.queues_of(name) for name in scenario.workers}
    for task_id, events in history.events.items():
        task = history.tasks.get(task_id)
        for event in events:
            worker = history.workers.get(event.actor.removeprefix("worker:"))
            if event.reason != Reason.CLAIMED or task is None or worker is None:
                continue
            if task.queue not in queues.get(worker.label, ()):
                message = f"of queue {task.queue}, claimed by {history.actor(event.actor)}, "
                message += f"which reads {', '.join(queues.get(worker.label, ('nothing',)))}"
                yield Violation("S9", task_id, message, (event, task))
