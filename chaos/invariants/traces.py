"""S13: the trace of every sampled task is complete, told once, and by whom it concerns. O(n).

What is missing is excused where the process that had to tell it could not (``excuses``); how often
that was is counted, and shown.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from uuid import UUID

from chaos import telemetry
from chaos.history import History
from chaos.invariants.excuses import Excuses, first
from chaos.invariants.violation import Violation
from chaos.records import Event, Record, Span, SpanLink, Task
from chaos.telemetry import Parent
from system.lifecycle import Reason, State

_EPOCH, _TASK, _OUTCOME = "holdfast.epoch", "holdfast.task.id", "holdfast.outcome"
_WORKER = "holdfast-worker"
_PUBLISHED = (Reason.DISPATCHED, Reason.REPUBLISHED)
_BATCHES = ("dispatch", "republish")
_Key = tuple[str, str]  # trace id, span id


@dataclass(slots=True)
class Findings:
    """``sampled``: tasks judged; ``spans``: how many there are; ``excused``: missing, by why."""

    sampled: int = 0
    spans: int = 0
    violations: list[Violation] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Attempt:
    """From a claim to its end in the log; ``end`` None: it is not over."""

    claim: Event
    end: Event | None

    @property
    def epoch(self) -> int:
        return self.claim.epoch


def traces_complete(history: History) -> list[Violation]:
    """S13: of every task whose traceparent is sampled: each attempt that ended has exactly one
    span, under its epoch, of the task's trace, by whoever ended it, with the log's reason, a link
    to the attempt before it and (a worker's) to its dispatch batch; there is a span of the create,
    of each dispatched epoch and of each claim; what handlers called out hangs below the attempt
    that did. And no span at all has a parent or a link that leads nowhere.
    """
    return examine(history).violations


def examine(history: History) -> Findings:
    """S13 with everything that was excused."""
    return _Examination(history).run()


def attempt_span_id(task_id: str, epoch: int) -> str:
    """Of an attempt, as everybody can compute it (in hex)."""
    digest = sha256(UUID(task_id).bytes + epoch.to_bytes(4, "big")).digest()
    return (digest[:8] if any(digest[:8]) else bytes(7) + b"\x01").hex()


def attempts(events: Iterable[Event]) -> list[Attempt]:
    """Of one task, in order."""
    found: list[Attempt] = []
    for event in events:
        if event.reason == Reason.CLAIMED:
            found.append(Attempt(event, None))
        elif found and event.from_state == State.RUNNING and event.to_state != State.RUNNING:
            found[-1] = Attempt(found[-1].claim, event)
    return found


class _Examination:
    """One pass over the tasks, then one over the spans."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._excuses = Excuses(history)
        self._findings = Findings()
        self._spans = [span for spans in history.spans.values() for span in spans]
        self._by_id: dict[_Key, Span] = {(s.trace_id, s.span_id): s for s in self._spans}
        # What may be named: spans, and what need not be one of ours: contexts in rows, attempts
        # that are not over, what is excused.
        self._known: set[_Key] = {*self._by_id}
        self._owners: dict[_Key, str] = {}  # who ran each attempt
        self._tasks: dict[str, str] = {}  # by trace
        self._strays: defaultdict[str, list[Span]] = defaultdict(list)  # attempts, by task
        for span in self._spans:
            if span.name.startswith("process ") and _TASK in span.attributes:
                self._strays[str(span.attributes[_TASK])].append(span)

    def run(self) -> Findings:
        for task in self._history.tasks.values():
            parent = telemetry.parent(task.traceparent)
            if parent is not None:
                self._tasks.setdefault(parent.trace_id, task.task_id)
                self._known.add((parent.trace_id, parent.span_id))
                if parent.sampled:
                    self._findings.sampled += 1
                    self._task(task, parent)
        for span in self._spans:
            self._called_out(span)
        for span in self._spans:  # afterwards: what is excused as missing is known from then on
            self._resolves(span)
        self._findings.spans = len(self._spans)
        return self._findings

    def _task(self, task: Task, parent: Parent) -> None:
        events = self._history.events.get(task.task_id, ())
        lives = attempts(events)
        trace = self._history.spans.get(parent.trace_id, ())
        mine = [span for span in trace if span.attributes.get(_TASK) == task.task_id]
        self._created(task, parent, events)
        self._published(task, mine, events)
        for attempt in lives:
            self._queued(task, mine, attempt)
            self._attempt(task, parent, attempt)
        told = {attempt.epoch for attempt in lives if attempt.end}
        for span in self._strays[task.task_id]:
            if span.attributes.get(_EPOCH) not in told:
                message = "an attempt has a span, but the log has no end of it"
                self._wrong(task.task_id, message, span)

    def _created(self, task: Task, parent: Parent, events: Sequence[Event]) -> None:
        accepted = self._history.submits_by_task.get(task.task_id, ())
        if any(submit.type == "ok" for submit in accepted):
            span = self._by_id.get((parent.trace_id, parent.span_id))
            if span is None or not span.name.startswith("create "):
                makers = [e for e in events if e.reason == Reason.SUBMITTED]
                self._missing(task.task_id, "it was accepted, but has no create span", makers)

    def _published(self, task: Task, mine: Sequence[Span], events: Sequence[Event]) -> None:
        makers: defaultdict[int, list[Event]] = defaultdict(list)
        for event in events:
            if event.reason in _PUBLISHED:
                makers[event.epoch].append(event)
        sent = {span.attributes.get(_EPOCH) for span in mine if span.name.startswith("send ")}
        for epoch, published in makers.items():
            if epoch not in sent:
                self._missing(task.task_id, f"no send span under epoch {epoch}", published)

    def _queued(self, task: Task, mine: Sequence[Span], attempt: Attempt) -> None:
        if not any(s.name == "queued" and s.attributes.get(_EPOCH) == attempt.epoch for s in mine):
            message = f"no queued span of the claim of epoch {attempt.epoch}"
            self._missing(task.task_id, message, [attempt.claim])

    def _attempt(self, task: Task, parent: Parent, attempt: Attempt) -> None:
        key = parent.trace_id, attempt_span_id(task.task_id, attempt.epoch)
        self._owners[key] = self._excuses.label(attempt.claim)
        if attempt.end is None:
            self._known.add(key)
            return
        found = [
            span
            for span in self._strays[task.task_id]
            if span.attributes.get(_EPOCH) == attempt.epoch
        ]
        if not found:
            message = f"the attempt of epoch {attempt.epoch} has no span"
            if self._missing(task.task_id, message, [attempt.end]):
                self._known.add(key)
            return
        if len(found) > 1:
            message = f"the attempt of epoch {attempt.epoch} has {len(found)} spans"
            self._wrong(task.task_id, message, *found, attempt.end)
        for span in found:
            for wrong in self._told_wrongly(span, key, parent, attempt.end):
                message = f"the span of the attempt of epoch {attempt.epoch} {wrong}"
                self._wrong(task.task_id, message, span, attempt.end)
            self._linked(task, span, attempt)

    def _told_wrongly(self, span: Span, key: _Key, parent: Parent, end: Event) -> list[str]:
        teller = self._excuses.label(end)
        reason = Reason(end.reason).text
        checks = {
            "is in another trace": span.trace_id == key[0],
            "has another id": span.span_id == key[1],
            "is no child of the create": span.parent_span_id == parent.span_id,
            f"says {span.attributes.get(_OUTCOME)}, the log {reason}": (
                span.attributes.get(_OUTCOME) == reason
            ),
            f"is by {span.instance}, but {teller} ended it": span.instance == teller,
        }
        return [wrong for wrong, right in checks.items() if not right]

    def _linked(self, task: Task, span: Span, attempt: Attempt) -> None:
        before: list[SpanLink] = []
        if attempt.epoch > 1:
            previous = attempt_span_id(task.task_id, attempt.epoch - 2)
            before = [SpanLink(trace_id=span.trace_id, span_id=previous)]
        if not set(before) <= set(span.links):
            message = f"the attempt of epoch {attempt.epoch} has no link to the one before it"
            self._wrong(task.task_id, message, span, attempt.claim)
        others = [link for link in span.links if link not in before]
        # Who hands back what it never knew of has no hint either.
        hinted = (
            span.service == _WORKER and attempt.end and attempt.end.reason != Reason.HANDED_BACK
        )
        if hinted and not any(self._may_be_batch(link) for link in others):
            message = f"the attempt of epoch {attempt.epoch} has no link to its dispatch batch"
            self._wrong(task.task_id, message, span, attempt.claim)

    def _may_be_batch(self, link: SpanLink) -> bool:
        """Whether it leads to a batch, or nowhere, which is the affair of ``_resolves``."""
        batch = self._by_id.get((link.trace_id, link.span_id))
        return batch is None or batch.name in _BATCHES

    def _called_out(self, span: Span) -> None:
        if span.role != "client" or span.service != _WORKER or span.trace_id not in self._tasks:
            return
        top = self._top(span)
        # A way up that ends at a span which is missing is the affair of ``_resolves``.
        missing = bool(top[1]) and top not in self._known
        if not missing and self._owners.get(top) != span.instance:
            message = f"{span.name} by {span.instance} is not below an attempt of its own"
            self._wrong(self._tasks[span.trace_id], message, span)

    def _top(self, span: Span) -> _Key:
        """The nearest attempt above it; else where the way up ends (a circle is given up)."""
        above = span.trace_id, span.parent_span_id or ""
        for _ in self._spans:
            if above in self._owners or above not in self._by_id:
                break
            above = span.trace_id, self._by_id[above].parent_span_id or ""
        return above

    def _resolves(self, span: Span) -> None:
        parent = span.parent_span_id
        if parent is not None and span.role != "server":
            self._leads((span.trace_id, parent), span, f"the parent of {span.name}")
        for link in span.links:
            self._leads((link.trace_id, link.span_id), span, f"a link of {span.name}")

    def _leads(self, key: _Key, span: Span, what: str) -> None:
        if key in self._known:
            return
        task_id = self._tasks.get(span.trace_id)
        message = f"{what} by {span.instance} leads nowhere"
        reason = self._excuses.of(span.instance, span.end)
        if reason is None and task_id is not None and what.startswith("a link"):
            # Of several hints it was one: whoever published that one may have been killed.
            makers = self._publishers(task_id, int(span.attributes.get(_EPOCH, 0)))
            reason = next(filter(None, map(self._excuses.of_event, makers)), None)
        if reason is None:
            self._wrong(task_id, message, span)
        else:
            self._known.add(key)
            self._findings.excused[reason] += 1

    def _publishers(self, task_id: str, epoch: int) -> list[Event]:
        """Who dispatched the attempt of this epoch."""
        events = self._history.events.get(task_id, ())
        return [e for e in events if e.reason in _PUBLISHED and e.epoch == epoch - 1]

    def _missing(self, task_id: str, message: str, makers: Sequence[Event]) -> bool:
        """Whether it is excused, which is counted; else it is a violation."""
        reason = first(self._excuses.of_event(maker) for maker in makers)
        if reason is None:
            self._wrong(task_id, message, *makers)
        else:
            self._findings.excused[reason] += 1
        return reason is not None

    def _wrong(self, task_id: str | None, message: str, *evidence: Record) -> None:
        self._findings.violations.append(Violation("S13", task_id, message, evidence))
