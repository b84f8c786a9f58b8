"""Count the occurrences that a scenario requires (``expect.sometimes``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from chaos.clients.client import NOTHING_DONE
from chaos.history.history import History
from chaos.history.records import Event
from holdfast.model.lifecycle import Reason, State


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An occurrence that a run must contain to prove anything.

    ``count`` returns how often a history contains it; None: only the arena can observe it, and
    records that it did.
    """

    name: str
    sentence: str
    count: Callable[[History], int] | None = None

    @property
    def description(self) -> str:
        """The sentence, marked if only the arena can observe the occurrence."""
        return self.sentence if self.count else f"{self.sentence} (seen by the arena)"

    def times(self, history: History) -> int:
        """Return how often a history contains it; 1 or 0 where only the arena can observe it."""
        if self.count is not None:
            return self.count(history)
        record = history.sometimes.get(self.name)
        return int(record is not None and record.held)


def _transitions(reason: Reason, target: State | None = None) -> Callable[[History], int]:
    """Count the transitions with this reason (into this state)."""

    def count(history: History) -> int:
        return sum(
            event.reason == reason and target in {None, event.to_state} for event in _all(history)
        )

    return count


def _all(history: History) -> Iterator[Event]:
    return (event for events in history.events.values() for event in events)


def _stale_writes(history: History) -> int:
    return sum(len(rows) for rows in history.stale_writes.values())


def _suppressed_calls(history: History) -> int:
    return sum(not call.applied for calls in history.sink_calls.values() for call in calls)


def _repeated_submits(history: History) -> int:
    """Count the ok submits under a key for which another submit was answered ok before."""
    accepted = Counter(s.full_key for s in history.of("submit") if s.type == "ok")
    return sum(count - 1 for key, count in accepted.items() if key is not None)


def _rotated_submits(history: History) -> int:
    """Count the keys under which submits with different secrets were answered ok."""
    accepted = {(s.full_key, s.value.get("secret")) for s in history.of("submit") if s.type == "ok"}
    return len(accepted) - len({key for key, _ in accepted})


def _mismatched_submits(history: History) -> int:
    return sum(
        submit.type == "fail"
        and submit.value.get("status") == 422
        and submit.full_key in history.task_by_key
        for submit in history.of("submit")
    )


def _invalid_submits(history: History) -> int:
    return sum(s.value.get("problem") == "invalid-request" for s in history.of("submit"))


def _unknown_outcomes(history: History) -> int:
    return sum(op.type == "info" for op in history.operations.values())


def _nothing_done(history: History) -> int:
    said = (op.value.get("problem") for op in history.operations.values())
    return sum(problem in NOTHING_DONE for problem in said)


def _replaced_workers(history: History) -> int:
    labels = Counter(worker.label for worker in history.workers.values())
    return sum(count - 1 for count in labels.values())


def _cancelled_tasks(history: History) -> int:
    return sum(task.state == State.CANCELLED for task in history.tasks.values())


def _late_cancels(history: History) -> int:
    return sum(c.type == "ok" and c.value.get("answer") == "too_late" for c in history.of("cancel"))


def _released_by(role: str) -> Callable[[History], int]:
    """Count the attempts that this role handed back."""

    def count(history: History) -> int:
        released = (event.actor for event in _all(history) if event.reason == Reason.RELEASED)
        return sum(actor.startswith(f"{role}:") for actor in released)

    return count


_DEFINED = (
    Occurrence(
        "stale_write_refused",
        "The fence refused a write of a worker that had lost its lease",
        _stale_writes,
    ),
    Occurrence(
        "duplicate_suppressed",
        "The sink received a repeated call and did not apply it again",
        _suppressed_calls,
    ),
    Occurrence(
        "submit_repeated",
        "A submit under a used key was answered with the existing task",
        _repeated_submits,
    ),
    Occurrence(
        "secret_rotated",
        "A submit was answered under one secret of an API key, and repeated under the next",
        _rotated_submits,
    ),
    Occurrence(
        "submit_mismatched",
        "A submit of a different payload under a used key was refused",
        _mismatched_submits,
    ),
    Occurrence(
        "invalid_refused",
        "A submit with an invalid field was refused",
        _invalid_submits,
    ),
    Occurrence("outcome_unknown", "A client operation ended unknown", _unknown_outcomes),
    Occurrence("nothing_done", "The API answered that nothing was done", _nothing_done),
    Occurrence("statement_outcome_unknown", "A role received no answer to a statement"),
    Occurrence("lease_lost", "An attempt was reclaimed from a worker", _transitions(Reason.LOST)),
    Occurrence(
        "attempt_failed",
        "An attempt failed and the task was scheduled again",
        _transitions(Reason.FAILED, State.SCHEDULED),
    ),
    Occurrence("hint_republished", "A hint was published again", _transitions(Reason.REPUBLISHED)),
    Occurrence("handed_back", "A worker released an attempt", _released_by("worker")),
    Occurrence(
        "unbegun_reclaimed",
        "A scheduler handed back an attempt that had not begun",
        _released_by("scheduler"),
    ),
    Occurrence("worker_replaced", "A worker restarted as a new incarnation", _replaced_workers),
    Occurrence("cancelled", "A task was cancelled", _cancelled_tasks),
    Occurrence("cancel_too_late", "A cancel was refused because the task had ended", _late_cancels),
    Occurrence(
        "cancel_requested",
        "A running attempt was asked to stop",
        _transitions(Reason.CANCEL_REQUESTED),
    ),
    Occurrence(
        "poisoned",
        "A task was dead-lettered because its attempts killed workers",
        _transitions(Reason.LOST, State.FAILED),
    ),
    Occurrence("claim_unknown", "A committed claim was reported as unknown"),
    Occurrence("finish_unknown", "A committed finish was reported as unknown"),
    Occurrence("submit_unknown", "A committed submit was reported as unknown"),
    Occurrence("amnesia_healed", "A scheduler detected hint loss in Redis and republished"),
    Occurrence("redis_given_up", "A role stopped waiting for Redis and continued without it"),
    Occurrence("stale_hint_delivered", "A hint of a past epoch reached Redis late"),
    Occurrence("statement_cancelled", "Postgres cancelled a statement of a role (57014)"),
    Occurrence("serialization_failed", "Postgres did not serialize a statement of a role (40001)"),
)

OCCURRENCES: Mapping[str, Occurrence] = MappingProxyType({each.name: each for each in _DEFINED})


def count_occurrences(history: History, name: str) -> int:
    """Return how often ``name`` (of ``vocabulary.SOMETIMES``) occurred."""
    return OCCURRENCES[name].times(history)
