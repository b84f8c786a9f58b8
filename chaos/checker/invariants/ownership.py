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
from holdfast.model.lifecycle import Reason, State
from holdfast.settings import Settings


def repeated_end_refused(history: History) -> Iterator[Violation]:
    """S8: a repeated end of an attempt is accepted while the task has not changed since."""
    for task_id, writes in history.stale_writes.items():
        ends = {
            event.epoch: event
            for event in history.events.get(task_id, ())
            if event.from_state == State.RUNNING and event.to_state != State.RUNNING
        }
        for write in writes:
            end = ends.get(write.epoch + 1)
            if end is None or end.actor != f"worker:{write.worker_id}":
                continue
            if write.epoch_found == end.epoch:
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


def claimed_after_marked_dead(history: History) -> Iterator[Violation]:
    """S9: no incarnation claims a task dispatched after an attempt of the incarnation was lost.

    By then it was marked dead and its own lease clock had expired. Only a claim it had sent before
    may still be granted, and such a claim names older hints.
    """
    dead_at = _marked_dead(history)
    for task_id, events in history.events.items():
        dispatch: Event | None = None
        for event in events:
            if event.reason == Reason.DISPATCHED:
                dispatch = event
            if event.reason != Reason.CLAIMED or event.actor not in dead_at or dispatch is None:
                continue
            late = (parse_instant(dispatch.at) - dead_at[event.actor]).total_seconds()
            if late > 0:
                who = history.actor(event.actor)
                message = f"claimed by {who} after it had been marked dead: "
                message += f"dispatched {late:.3f} s later"
                yield Violation("S9", task_id, message, (dispatch, event))


def _marked_dead(history: History) -> dict[str, datetime]:
    """Return when each actor first lost an attempt: it had been marked dead by then."""
    found: dict[str, datetime] = {}
    for events in history.events.values():
        owner = ""
        for event in events:
            if event.reason == Reason.CLAIMED:
                owner = event.actor
            elif event.reason == Reason.LOST:
                at = parse_instant(event.at)
                found[owner] = min(at, found.get(owner, at))
    return found
