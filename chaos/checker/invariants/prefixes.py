"""The states of tasks that their logs imply, and which of them an answer may show.

``states[k]`` of a task is its state after the first k events of its log; ``states[0]`` is None: it
does not exist yet. An answer of the API is read from one snapshot of the database between the
invoke and the completion of its operation, so it shows one of these states. Which ones it may show
follows from instants of the database and of the harness, whose clocks are one: arena second 0 is
taken from the database, on the same host (``SLACK_SECONDS`` covers their granularity).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chaos.history.history import History, Operation
from chaos.history.records import Event, TaskRow, parse_instant, reason_text
from holdfast.model.lifecycle import TERMINAL, Reason, State

SLACK_SECONDS = 0.001
Body = dict[str, Any]
_INSTANTS = frozenset({"run_at", "created_at", "due_at", "finished_at"})


@dataclass(frozen=True, slots=True)
class Between:
    """An instant of which the log gives only bounds (ISO 8601); None: no bound."""

    least: str
    most: str | None

    def holds(self, instant: object) -> bool:
        if not isinstance(instant, str):
            return False
        at = parse_instant(instant)
        return parse_instant(self.least) <= at and (
            self.most is None or at <= parse_instant(self.most)
        )


class TaskLog:
    """The log of one task with the states that it implies."""

    def __init__(self, history: History, task: TaskRow) -> None:
        self.task = task
        self.events: tuple[Event, ...] = history.events.get(task.task_id, ())
        self._instants = [history.seconds(event.at) for event in self.events]
        rows = history.effects.get(task.task_id, ())
        self._result = rows[0].result if rows else None
        self._bodies: dict[int, Body] = {}

    @cached_property
    def names(self) -> list[str | None]:
        """The name of each state."""
        return [None, *(event.to_state for event in self.events)]

    def certain(self, at: float) -> int:
        """Return how many events were certainly committed at this arena second.

        An event is stamped before its commit. The next one is stamped under the lock of the row,
        hence after the commit of the one before it.
        """
        return max(0, bisect_right(self._instants, at - SLACK_SECONDS) - 1)

    def possible(self, at: float) -> int:
        """Return how many events may have been committed: those stamped by this arena second."""
        return bisect_right(self._instants, at + SLACK_SECONDS)

    def at_rest(self, count: int) -> int:
        """Return the least number of events, from ``count`` on, that leaves the task terminal."""
        ends = (k for k in range(count, len(self.names)) if self.names[k] in TERMINAL)
        return next(ends, count)

    def body(self, count: int) -> Body:
        """Return what a whole answer says after ``count`` >= 1 events: value, Between by field.

        A field that the log does not determine is missing.
        """
        if count not in self._bodies:
            self._bodies[count] = self._body(count)
        return self._bodies[count]

    def _body(self, count: int) -> Body:
        task, events = self.task, self.events[:count]
        last = events[-1]
        reasons = [event.reason for event in events]
        succeeded = last.to_state == State.SUCCEEDED
        body = {
            "id": task.task_id,
            "name": task.name,
            "payload": task.payload,
            "queue": task.queue,
            "priority": task.priority,
            "run_at": task.run_at,
            "created_at": task.created_at,
            "timeout_seconds": task.timeout_seconds,
            "idempotency_key": task.key,
            "traceparent": task.traceparent,
            "state": last.to_state,
            "epoch": last.epoch,
            "attempt": last.attempt,
            "losses": reasons.count(Reason.LOST),
            "handed_back": reasons.count(Reason.RELEASED),
            "cancel_requested": _cancel_requested(events),
            "due_at": self._due(count),
            "finished_at": self._finished(count),
            "result": self._result if succeeded else None,
            "attempts": attempts(events),
        }
        if all(event.reason != Reason.RETRIED for event in self.events[count:]):
            body["max_attempts"] = task.max_attempts
        return body

    def _due(self, count: int) -> str | Between:
        """Only entering SCHEDULED sets the due time; the row keeps the last one."""
        entered = [n for n, e in enumerate(self.events) if e.to_state == State.SCHEDULED]
        current = [n for n in entered if n < count]
        if len(current) == len(entered):
            return self.task.due_at
        if len(current) == 1:
            return max(self.task.run_at, self.task.created_at, key=parse_instant)
        before = self.events[current[-1] - 1].at
        following = self.events[current[-1] + 1 :]
        dispatched = (e.at for e in following if e.reason == Reason.DISPATCHED)
        return Between(before, next(dispatched, None))

    def _finished(self, count: int) -> str | Between | None:
        event = self.events[count - 1]
        if event.to_state not in TERMINAL:
            return None
        if count == len(self.events):
            return self.task.finished_at
        # Stamped in the same statement as the event, but before it.
        return Between(self.events[count - 2].at, event.at)


def _cancel_requested(events: tuple[Event, ...]) -> bool:
    requested = False
    for event in events:
        if event.reason in {Reason.CANCEL_REQUESTED, Reason.CANCELLED}:
            requested = True
        elif event.reason == Reason.RETRIED:
            requested = False
    return requested


def attempts(events: tuple[Event, ...]) -> list[Body]:
    """Return the attempts that a whole answer lists after these events."""
    found: list[Body] = []
    for event in events:
        if event.reason == Reason.CLAIMED:
            claim = {
                "attempt": event.attempt,
                "epoch": event.epoch,
                "worker": event.actor.removeprefix("worker:"),
                "started_at": event.at,
            }
            found.append(claim | {"ended_at": None, "outcome": None, "error": None})
        elif found and event.from_state == State.RUNNING != event.to_state:
            error = (event.detail or {}).get("error")
            if error is not None:
                error = {key: error.get(key) for key in ("type", "message", "traceback")}
            end = {"ended_at": event.at, "outcome": reason_text(event.reason), "error": error}
            found[-1] |= end
    return found


def differing(expected: Body, shown: Body) -> list[str]:
    """Return the fields in which a shown task differs from the expected one; [] if in none."""
    return [
        name for name, value in expected.items() if not _same(name, value, shown.get(name, ...))
    ]


def _same(name: str, expected: Any, shown: Any) -> bool:
    if isinstance(expected, Between):
        return expected.holds(shown)
    if name in _INSTANTS and isinstance(expected, str) and isinstance(shown, str):
        return parse_instant(expected) == parse_instant(shown)
    if name == "attempts" and expected is not None and isinstance(shown, list):
        return list(map(_in_utc, expected)) == list(map(_in_utc, shown))
    return bool(expected == shown)


def _in_utc(item: Body) -> Body:
    stamps = {key: item[key] for key in ("started_at", "ended_at", "at") if item.get(key)}
    return item | {key: parse_instant(text) for key, text in stamps.items()}


def listed_events(events: tuple[Event, ...]) -> list[Body]:
    """Return the answer to ``events`` after these events, with parsed instants."""
    return [
        {
            "seq": event.seq,
            "at": parse_instant(event.at),
            "from_state": event.from_state,
            "to_state": event.to_state,
            "epoch": event.epoch,
            "attempt": event.attempt,
            "actor": event.actor,
            "reason": reason_text(event.reason),
            "detail": event.detail,
        }
        for event in events
    ]


def shows_events(events: tuple[Event, ...], shown: list[Body]) -> bool:
    """Return whether an answer to ``events`` is exactly these events."""
    return len(events) == len(shown) and listed_events(events) == list(map(_in_utc, shown))


@dataclass(frozen=True, slots=True)
class Showing:
    """One task in an answer: its ``body``, its ``events``, or neither: it does not exist."""

    operation: Operation
    task_id: str
    body: Body | None = None
    events: list[Body] | None = None

    @property
    def whole(self) -> bool:
        """Whether result and attempts are loaded."""
        return self.operation.invoke.op not in {"submit", "list"}

    def wrong(self, log: TaskLog, count: int) -> list[str]:
        """Return what contradicts the state after ``count`` events; [] if it is shown."""
        if self.events is not None:
            return [] if shows_events(log.events[:count], self.events) else ["events"]
        if self.body is None or not count:
            return [] if self.body is None and not count else ["existence"]
        expected = log.body(count)
        if not self.whole:
            expected = expected | {"result": None, "attempts": None}
        return differing(expected, self.body)


def showings(operation: Operation) -> Iterator[Showing]:
    """Yield each task that the answer to an operation shows."""
    value = operation.value
    task_id = str(value.get("task_id"))
    match operation.invoke.op, operation.type:
        case "list", "ok":
            for body in value["tasks"]:
                yield Showing(operation, str(body.get("id")), body)
        case "events", "ok":
            yield Showing(operation, task_id, events=value["events"])
        case "get", "ok" if value.get("state") is None:
            yield Showing(operation, task_id)
        case _, "ok" if value.get("task") is not None:
            yield Showing(operation, task_id, value["task"])
        case (("cancel" | "retry"), "fail") if value.get("status") == 404:
            yield Showing(operation, task_id)
        case _:
            pass


def acted(log: TaskLog, operation: Operation, window: range) -> range:
    """Return the part of a window in which the action of a cancel or retry can have been done.

    The task in their answer is read after the action. Without any such state: all of the window.
    """
    match operation.invoke.op:
        case "cancel":
            done = (k for k in window if k and log.body(k)["cancel_requested"])
        case "retry":
            done = (k for k in window if k and log.events[k - 1].reason == Reason.RETRIED)
        case _:
            return window
    return range(next(done, window.start), window.stop)


class Answers:
    """Which states of each task the answers of a history show. ``unexplained``: those of none.

    An operation may see event k only if it was stamped by its completion, and must see it if event
    k + 1 was stamped before its invoke, if an operation that had completed before showed it, or if
    it ended the task before the phase ``quiet`` and the invoke came after that.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._quiet = history.phases.get("quiet")
        self._logs: dict[str, TaskLog] = {}
        self._shown: dict[str, list[tuple[float, int]]] = {}
        self.unexplained: list[Showing] = []
        for operation in history.operations.values():
            for showing in showings(operation):
                self._explain(showing)

    def log(self, task_id: str) -> TaskLog | None:
        """Return the log of a task; None if it is not in the final read."""
        if task_id not in self._logs and task_id in self._history.tasks:
            self._logs[task_id] = TaskLog(self._history, self._history.tasks[task_id])
        return self._logs.get(task_id)

    def window(self, log: TaskLog, operation: Operation) -> range:
        """Return how many events an operation may have seen."""
        invoked, completion = operation.invoke.at, operation.completion
        least = self._least(log, invoked)
        if self._quiet is not None and self._quiet <= invoked:
            resting = self._least(log, self._quiet)
            least = max(least, log.at_rest(resting) if resting else 0)
        most = log.possible(completion.at) if completion else len(log.events)
        return range(least, most + 1)

    def _least(self, log: TaskLog, at: float) -> int:
        shown = self._shown.get(log.task.task_id, ())
        return max(log.certain(at), *(count for end, count in shown if end < at), 0)

    def _explain(self, showing: Showing) -> None:
        log = self.log(showing.task_id)
        if log is None:
            if showing.body is not None or showing.events is not None:
                self.unexplained.append(showing)
            return
        window = acted(log, showing.operation, self.window(log, showing.operation))
        fitting = (k for k in window if not showing.wrong(log, k))
        least = next(fitting, None)
        completion = showing.operation.completion
        if least is None:
            self.unexplained.append(showing)
        elif completion is not None:
            self._shown.setdefault(showing.task_id, []).append((completion.at, least))
