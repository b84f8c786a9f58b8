"""Whether what a scenario needs to prove anything (``expect.sometimes``) was really seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from chaos.history import History
from chaos.records import Event
from system.lifecycle import Reason, State


def _events(history: History, reason: Reason, target: State | None = None) -> int:
    return sum(
        event.reason == reason and target in {None, event.to_state} for event in _all(history)
    )


def _all(history: History) -> Iterable[Event]:
    return (event for events in history.events.values() for event in events)


def _repeated(history: History) -> int:
    """Submits answered ok under a key that another one was answered under before."""
    accepted = Counter(s.value.get("key") for s in history.of("submit") if s.type == "ok")
    return sum(count - 1 for key, count in accepted.items() if key is not None)


def _mismatched(history: History) -> int:
    return sum(
        submit.type == "fail"
        and submit.value.get("status") == 422
        and submit.value.get("key") in history.task_by_key
        for submit in history.of("submit")
    )


def _replaced(history: History) -> int:
    labels = Counter(worker.label for worker in history.workers.values())
    return sum(count - 1 for count in labels.values())


def _suppressed(history: History) -> int:
    return sum(not call.applied for calls in history.sink_calls.values() for call in calls)


def _cancel_answers(history: History, answer: str) -> int:
    return sum(c.type == "ok" and c.value.get("answer") == answer for c in history.of("cancel"))


# Each counts how often it was seen. A name without a line here is seen by the arena alone.
_COUNTS: Mapping[str, Callable[[History], int]] = MappingProxyType(
    {
        "stale_write_refused": lambda h: sum(len(rows) for rows in h.stale_writes.values()),
        "duplicate_suppressed": _suppressed,
        "submit_repeated": _repeated,
        "submit_mismatched": _mismatched,
        "outcome_unknown": lambda h: sum(op.type == "info" for op in h.operations.values()),
        "lease_lost": lambda h: _events(h, Reason.LOST),
        "attempt_failed": lambda h: _events(h, Reason.FAILED, State.SCHEDULED),
        "hint_republished": lambda h: _events(h, Reason.REPUBLISHED),
        "cancel_requested": lambda h: _events(h, Reason.CANCEL_REQUESTED),
        "poisoned": lambda h: _events(h, Reason.LOST, State.FAILED),
        "handed_back": lambda h: _events(h, Reason.HANDED_BACK),
        "worker_replaced": _replaced,
        "cancelled": lambda h: sum(t.state == State.CANCELLED for t in h.tasks.values()),
        "cancel_too_late": lambda h: _cancel_answers(h, "too_late"),
    }
)


def seen(history: History, name: str) -> int:
    """How often ``name`` (of ``vocabulary.SOMETIMES``) was seen."""
    count = _COUNTS.get(name)
    if count is not None:
        return count(history)
    record = history.sometimes.get(name)
    return int(record is not None and record.held)
