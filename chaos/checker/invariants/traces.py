"""Check S13: the trace of every sampled task is complete, without duplicates. O(n).

A missing span is exempt where its process could not have exported it (``SpanExemptions``); the
exemptions are counted and shown.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from uuid import UUID

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.span_exemptions import SpanExemptions, shared
from chaos.checker.invariants.violation import Violation
from chaos.history.history import History
from chaos.history.records import Event, Record, TaskRow, reason_text
from chaos.history.spans import Span, SpanLink
from chaos.observers import otlp
from chaos.observers.otlp import TraceParent
from holdfast.model.lifecycle import Reason, State

_EPOCH, _TASK, _OUTCOME = "holdfast.epoch", "holdfast.task.id", "holdfast.outcome"
_WORKER = "holdfast-worker"
_PUBLISHED = (Reason.DISPATCHED, Reason.REPUBLISHED)
_BATCHES = ("dispatch", "republish")
# What a handler with a business row sends, besides the finish, which is a span by itself.
_OF_A_TRANSACTION = ("INSERT", "COMMIT")
_Key = tuple[str, str]  # trace id, span id


@dataclass(slots=True)
class TraceFindings:
    """Result of S13: sampled tasks, recorded spans, and exempt missing spans by reason."""

    sampled: int = 0
    spans: int = 0
    violations: list[Violation] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class LoggedAttempt:
    """An attempt in the log, from its claim to its end; ``end`` is None while it runs."""

    claim: Event
    end: Event | None

    @property
    def epoch(self) -> int:
        return self.claim.epoch


@invariant("S13", "spans with the log and with each other")
def traces_complete(history: History) -> list[Violation]:
    """The trace of every task is complete: each attempt has one span, and every reference resolves.

    For every task whose traceparent is sampled: each ended attempt has exactly one span, under its
    epoch, in the task's trace, emitted by the process that ended it, with the reason of the log, a
    link to the previous attempt and (from a worker) to its dispatch batch. There is a span of the
    create, of each dispatched epoch and of each claim. Calls made by handlers are descendants of
    the attempt that made them; a committed transaction has spans of its statement and its COMMIT.
    No span of the run has a parent or link that does not exist.
    """
    return history.view(examine).violations


def examine(history: History) -> TraceFindings:
    """Check S13; ``history.view(examine)`` does so once per history."""
    return _Examination(history).run()


def attempt_span_id(task_id: str, epoch: int) -> str:
    """Return the span id of an attempt, in hex; every process computes the same."""
    digest = sha256(UUID(task_id).bytes + epoch.to_bytes(4, "big")).digest()
    return (digest[:8] if any(digest[:8]) else bytes(7) + b"\x01").hex()


def attempts(events: Iterable[Event]) -> list[LoggedAttempt]:
    """Return the attempts of one task in order."""
    found: list[LoggedAttempt] = []
    for event in events:
        if event.reason == Reason.CLAIMED:
            found.append(LoggedAttempt(event, None))
        elif found and event.from_state == State.RUNNING and event.to_state != State.RUNNING:
            found[-1] = LoggedAttempt(found[-1].claim, event)
    return found


class _Examination:
    """Makes one pass over the tasks, then one over the spans."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._exemptions = SpanExemptions(history)
        self._findings = TraceFindings()
        self._spans = [span for spans in history.spans.values() for span in spans]
        self._by_id: dict[_Key, Span] = {(s.trace_id, s.span_id): s for s in self._spans}
        # Valid targets of references: recorded spans, and those that may be missing: the contexts
        # in rows, attempts that have not ended, exempt spans.
        self._known: set[_Key] = {*self._by_id}
        self._owners: dict[_Key, str] = {}  # process that ran each attempt
        self._tasks: dict[str, str] = {}  # task by trace id
        self._attempt_spans: defaultdict[str, list[Span]] = defaultdict(list)  # by task
        self._children: defaultdict[_Key, list[Span]] = defaultdict(list)
        for span in self._spans:
            self._children[span.trace_id, span.parent_span_id or ""].append(span)
            if span.name.startswith("process ") and _TASK in span.attributes:
                self._attempt_spans[str(span.attributes[_TASK])].append(span)

    def run(self) -> TraceFindings:
        for task in self._history.tasks.values():
            parent = otlp.parse_traceparent(task.traceparent)
            if parent is not None:
                self._tasks.setdefault(parent.trace_id, task.task_id)
                self._known.add((parent.trace_id, parent.span_id))
                if parent.sampled:
                    self._findings.sampled += 1
                    self._check_task(task, parent)
        for span in self._spans:
            self._check_nesting(span)
        for span in self._spans:  # last: exempt spans are valid targets by now
            self._check_references(span)
        self._findings.spans = len(self._spans)
        return self._findings

    def _check_task(self, task: TaskRow, parent: TraceParent) -> None:
        events = self._history.events.get(task.task_id, ())
        tried = attempts(events)
        trace = self._history.spans.get(parent.trace_id, ())
        mine = [span for span in trace if span.attributes.get(_TASK) == task.task_id]
        self._check_create_span(task, parent, events)
        self._check_send_spans(task, mine, events)
        for attempt in tried:
            self._check_queued_span(task, mine, attempt)
            self._check_attempt_span(task, parent, attempt)
            self._check_transaction_spans(task, parent, attempt)
        ended = {attempt.epoch for attempt in tried if attempt.end}
        for span in self._attempt_spans[task.task_id]:
            if span.attributes.get(_EPOCH) not in ended:
                message = "a span claims an attempt that did not end in the log"
                self._wrong(task.task_id, message, span)

    def _check_create_span(
        self, task: TaskRow, parent: TraceParent, events: Sequence[Event]
    ) -> None:
        accepted = self._history.submits_by_task.get(task.task_id, ())
        if any(submit.type == "ok" for submit in accepted):
            span = self._by_id.get((parent.trace_id, parent.span_id))
            if span is None or not span.name.startswith("create "):
                makers = [e for e in events if e.reason == Reason.SUBMITTED]
                self._missing(task.task_id, "the task was accepted, but has no create span", makers)

    def _check_send_spans(
        self, task: TaskRow, mine: Sequence[Span], events: Sequence[Event]
    ) -> None:
        makers: defaultdict[int, list[Event]] = defaultdict(list)
        for event in events:
            if event.reason in _PUBLISHED:
                makers[event.epoch].append(event)
        sent = {span.attributes.get(_EPOCH) for span in mine if span.name.startswith("send ")}
        for epoch, published in makers.items():
            if epoch not in sent:
                self._missing(task.task_id, f"no send span under epoch {epoch}", published)

    def _check_queued_span(
        self, task: TaskRow, mine: Sequence[Span], attempt: LoggedAttempt
    ) -> None:
        if not any(s.name == "queued" and s.attributes.get(_EPOCH) == attempt.epoch for s in mine):
            message = f"no queued span for the claim of epoch {attempt.epoch}"
            self._missing(task.task_id, message, [attempt.claim])

    def _check_attempt_span(
        self, task: TaskRow, parent: TraceParent, attempt: LoggedAttempt
    ) -> None:
        key = parent.trace_id, attempt_span_id(task.task_id, attempt.epoch)
        self._owners[key] = self._exemptions.label(attempt.claim)
        if attempt.end is None:
            self._known.add(key)
            return
        found = [
            span
            for span in self._attempt_spans[task.task_id]
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
            for wrong in self._mistakes(span, key, parent, attempt.end):
                message = f"the span of the attempt of epoch {attempt.epoch} {wrong}"
                self._wrong(task.task_id, message, span, attempt.end)
            self._check_links(task, span, attempt)

    def _check_transaction_spans(
        self, task: TaskRow, parent: TraceParent, attempt: LoggedAttempt
    ) -> None:
        rows = self._history.sql_effects.get(task.task_id, ())
        if attempt.end is None or all(row.epoch != attempt.epoch for row in rows):
            return
        key = parent.trace_id, attempt_span_id(task.task_id, attempt.epoch)
        within = [span for span in self._children[key] if span.name == "transaction"]
        made = {s.name for each in within for s in self._children[each.trace_id, each.span_id]}
        for name in _OF_A_TRANSACTION:
            if name not in made:
                message = f"the transaction of epoch {attempt.epoch} has no span of its {name}"
                self._missing(task.task_id, message, [attempt.end])

    def _mistakes(self, span: Span, key: _Key, parent: TraceParent, end: Event) -> list[str]:
        ender = self._exemptions.label(end)
        reason = reason_text(end.reason)
        checks = {
            "is in another trace": span.trace_id == key[0],
            "has another id": span.span_id == key[1],
            "is not a child of the create span": span.parent_span_id == parent.span_id,
            f"says {span.attributes.get(_OUTCOME)}, the log {reason}": (
                span.attributes.get(_OUTCOME) == reason
            ),
            f"is from {span.instance}, but {ender} ended it": span.instance == ender,
        }
        return [wrong for wrong, right in checks.items() if not right]

    def _check_links(self, task: TaskRow, span: Span, attempt: LoggedAttempt) -> None:
        before: list[SpanLink] = []
        if attempt.epoch > 1:
            previous = attempt_span_id(task.task_id, attempt.epoch - 2)
            before = [SpanLink(trace_id=span.trace_id, span_id=previous)]
        if not set(before) <= set(span.links):
            message = f"the attempt of epoch {attempt.epoch} has no link to the previous attempt"
            self._wrong(task.task_id, message, span, attempt.claim)
        others = [link for link in span.links if link not in before]
        # A worker that releases an unknown attempt has no hint for it.
        hinted = span.service == _WORKER and attempt.end and attempt.end.reason != Reason.RELEASED
        if hinted and not any(self._may_be_batch(link) for link in others):
            message = f"the attempt of epoch {attempt.epoch} has no link to its dispatch batch"
            self._wrong(task.task_id, message, span, attempt.claim)

    def _may_be_batch(self, link: SpanLink) -> bool:
        """Return whether the target is a batch, or missing (``_check_references`` reports that)."""
        batch = self._by_id.get((link.trace_id, link.span_id))
        return batch is None or batch.name in _BATCHES

    def _check_nesting(self, span: Span) -> None:
        if span.role != "client" or span.service != _WORKER or span.trace_id not in self._tasks:
            return
        top = self._top(span)
        # An ancestor that is missing is reported by ``_check_references``.
        missing = bool(top[1]) and top not in self._known
        if not missing and self._owners.get(top) != span.instance:
            message = f"{span.name} from {span.instance} is not a descendant of one of its attempts"
            self._wrong(self._tasks[span.trace_id], message, span)

    def _top(self, span: Span) -> _Key:
        """Return the nearest attempt among the ancestors, else the last one (cycles are cut)."""
        above = span.trace_id, span.parent_span_id or ""
        for _ in self._spans:
            if above in self._owners or above not in self._by_id:
                break
            above = span.trace_id, self._by_id[above].parent_span_id or ""
        return above

    def _check_references(self, span: Span) -> None:
        parent = span.parent_span_id
        if parent is not None and span.role != "server":
            self._check_reference((span.trace_id, parent), span, f"the parent of {span.name}")
        for link in span.links:
            self._check_reference((link.trace_id, link.span_id), span, f"a link of {span.name}")

    def _check_reference(self, key: _Key, span: Span, what: str) -> None:
        if key in self._known:
            return
        task_id = self._tasks.get(span.trace_id)
        message = f"{what} from {span.instance} does not exist"
        reason = self._exemptions.for_process(span.instance, span.end)
        if reason is None and task_id is not None and what.startswith("a link"):
            # The link names one of several hints; the publisher of that one may have been killed.
            makers = self._publishers(task_id, int(span.attributes.get(_EPOCH, 0)))
            reason = next(filter(None, map(self._exemptions.for_event, makers)), None)
        if reason is None:
            self._wrong(task_id, message, span)
        else:
            self._known.add(key)
            self._findings.excused[reason] += 1

    def _publishers(self, task_id: str, epoch: int) -> list[Event]:
        """Return the events that published a hint for the attempt of this epoch."""
        events = self._history.events.get(task_id, ())
        return [e for e in events if e.reason in _PUBLISHED and e.epoch == epoch - 1]

    def _missing(self, task_id: str, message: str, makers: Sequence[Event]) -> bool:
        """Count an exemption and return True, or add a violation and return False."""
        reason = shared(self._exemptions.for_event(maker) for maker in makers)
        if reason is None:
            self._wrong(task_id, message, *makers)
        else:
            self._findings.excused[reason] += 1
        return reason is not None

    def _wrong(self, task_id: str | None, message: str, *evidence: Record) -> None:
        self._findings.violations.append(Violation("S13", task_id, message, evidence))
