"""Compare what each process says at /metrics with what the log says it did: S28. O(n)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.disturbance import undisturbed
from chaos.checker.invariants.violation import Violation
from chaos.history.history import History
from chaos.history.records import ArenaName, Event, TaskRow, parse_instant
from chaos.history.rest import Scrape
from holdfast.model.lifecycle import TERMINAL, Reason, State

# Outcomes of attempts that another process has ended.
_DONE_BY_OTHERS = frozenset({"lost", "stale"})
_ROUTES = {
    "get": ("GET", "/tasks/{task_id}"),
    "events": ("GET", "/tasks/{task_id}/events"),
    "cancel": ("POST", "/tasks/{task_id}/cancel"),
    "retry": ("POST", "/tasks/{task_id}/retry"),
    "list": ("GET", "/tasks/"),
}
# Of the event loop, per turn, in virtual time: nothing else runs on its processor.
_LAG_SECONDS_MAX = 0.05
_ROUNDING_SECONDS = 0.001

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Deed:
    """A transition that a process made, with the row of its task."""

    event: Event
    task: TaskRow

    @property
    def reason(self) -> Reason:
        return Reason(self.event.reason)


@dataclass(frozen=True, slots=True)
class _Count:
    """A counter, or the count of a histogram, with the values of its ``labels`` for a deed.

    ``reasons``: of the deeds that it counts.
    """

    metric: str
    reasons: frozenset[Reason]
    labels: Mapping[str, Callable[[_Deed], str]]

    def of(self, deed: _Deed) -> Labels | None:
        """Return the label values under which a deed is counted; None: it is not."""
        if deed.reason not in self.reasons:
            return None
        values = tuple(label(deed) for label in self.labels.values())
        return values if all(values) else None


def _queue(deed: _Deed) -> str:
    return deed.task.queue


def _name(deed: _Deed) -> str:
    return deed.task.name


def _reason(deed: _Deed) -> str:
    return deed.reason.text


def _outcome(deed: _Deed) -> str:
    """Return how the task became terminal; empty if it did not."""
    state = State(deed.event.to_state)
    return state.lower() if state in TERMINAL else ""


def _created(_: _Deed) -> str:
    return "created"


def _count(metric: str, *reasons: Reason, **labels: Callable[[_Deed], str]) -> _Count:
    return _Count(f"holdfast_{metric}", frozenset(reasons), MappingProxyType(labels))


_FINISHED = _count("tasks_finished_total", *Reason, queue=_queue, outcome=_outcome)
_ENDED_BY_WORKER = (
    *(Reason.SUCCEEDED, Reason.FAILED, Reason.TIMED_OUT, Reason.DISCARDED),
    *(Reason.CANCELLED, Reason.RELEASED),
)
_COUNTS: Mapping[str, tuple[_Count, ...]] = MappingProxyType(
    {
        "worker": (
            _FINISHED,
            _count("attempts_claimed_total", Reason.CLAIMED, queue=_queue),
            _count("task_start_delay_seconds_count", Reason.CLAIMED, queue=_queue),
            _count("task_queue_wait_seconds_count", Reason.CLAIMED, queue=_queue),
            _count("task_duration_seconds_count", Reason.SUCCEEDED, queue=_queue),
            _count(
                "attempts_finished_total",
                *_ENDED_BY_WORKER,
                queue=_queue,
                name=_name,
                outcome=_reason,
            ),
        ),
        "scheduler": (
            _FINISHED,
            _count("tasks_dispatched_total", Reason.DISPATCHED, queue=_queue),
            _count("hints_republished_total", Reason.REPUBLISHED),
            _count(
                "attempts_taken_back_total",
                *(Reason.LOST, Reason.TIMED_OUT, Reason.RELEASED),
                reason=_reason,
            ),
        ),
        "api": (
            _FINISHED,
            _count("tasks_submitted_total", Reason.SUBMITTED, queue=_queue, outcome=_created),
        ),
    }
)


@invariant("S28", "the metrics of each process with the log and the answers")
def metrics_agree(history: History) -> list[Violation]:
    """At rest, the metrics of a process say what the log says it did since it started.

    An answer is an exposition, whose counters do not exceed the log and whose durations are not
    negative. If no fault disturbed the run and every outcome was known, each process answers, each
    counter equals the log, the waits in the queue add up to those of the log, all slots are free,
    and the requests by route and status are those that clients saw answered (unless one got no
    answer).
    """
    exact = undisturbed(history)
    deeds = _deeds(history)
    found: list[Violation] = []
    for scrape in history.scrapes:
        if problem := _problem(scrape):
            if scrape.status or exact:
                found.append(Violation("S28", None, f"{scrape.actor} {problem}", (scrape,)))
            continue
        actor = _identity(history, scrape.actor)
        wrong = [*_counters(scrape, deeds.get(actor, []), exact=exact), *_negative(scrape)]
        if exact:
            wrong += [*_lag(history, scrape), *_slots(scrape)]
            wrong += _queue_wait(history, scrape, actor)
        found += [Violation("S28", None, f"{scrape.actor} {each}", (scrape,)) for each in wrong]
    if exact and history.scrapes and not any(map(_problem, history.scrapes)):
        found += [Violation("S28", None, each, history.scrapes) for each in _requests(history)]
    return found


def _problem(scrape: Scrape) -> str:
    """Return why the process said nothing that can be compared; "" if it did."""
    if not scrape.status:
        return f"does not answer at /metrics: {scrape.error}"
    if scrape.status != HTTPStatus.OK:
        return f"answers with {scrape.status} at /metrics"
    return f"answers at /metrics with what is {scrape.error}" if scrape.error else ""


def _deeds(history: History) -> dict[str, list[_Deed]]:
    found: dict[str, list[_Deed]] = {}
    for task in history.tasks.values():
        for event in history.events.get(task.task_id, ()):
            found.setdefault(event.actor, []).append(_Deed(event, task))
    return found


def _role(actor: str) -> str:
    return actor.partition("-")[0]


def _identity(history: History, actor: str) -> str:
    """Return the name of a scraped process in the log: of a worker, its last incarnation.

    APIs and schedulers keep their name when they start again: the log has more than they count.
    """
    role = _role(actor)
    if role != "worker":
        return f"{role}:{actor}"
    lives = [worker for worker in history.workers.values() if worker.label == actor]
    return f"worker:{max(lives, key=lambda w: w.started_at).worker_id}" if lives else ""


def _counters(scrape: Scrape, deeds: list[_Deed], *, exact: bool) -> Iterator[str]:
    for count in _COUNTS[_role(scrape.actor)]:
        done = Counter(labels for deed in deeds if (labels := count.of(deed)) is not None)
        said = {
            tuple(sample.labels[name] for name in count.labels): sample.value
            for sample in scrape.samples
            if sample.name == count.metric and _is_deed(count, sample.labels)
        }
        for labels in sorted({*done, *said}):
            value = said.get(labels, 0.0)
            if value > done[labels] or (exact and value != done[labels]):
                shown = dict(zip(count.labels, labels, strict=True))
                yield f"says {count.metric} {shown} = {value:g}; the log has {done[labels]}"


def _is_deed(count: _Count, labels: Mapping[str, str]) -> bool:
    outcome = labels.get("outcome")
    if count.labels.get("outcome") is _created:
        return outcome == "created"
    return outcome not in _DONE_BY_OTHERS


def _negative(scrape: Scrape) -> Iterator[str]:
    for sample in scrape.samples:
        if sample.name.endswith(("_seconds", "_seconds_sum")) and sample.value < 0:
            yield f"says {sample.name} {sample.labels} = {sample.value:g}"


def _total(scrape: Scrape, metric: str) -> float:
    return sum(sample.value for sample in scrape.samples if sample.name == f"holdfast_{metric}")


def _lag(history: History, scrape: Scrape) -> Iterator[str]:
    lag = _total(scrape, "event_loop_lag_seconds_sum")
    turns = _total(scrape, "event_loop_lag_seconds_count")
    if history.run.arena is ArenaName.SIMULATION and lag > turns * _LAG_SECONDS_MAX:
        yield f"says that its event loop lagged {lag:g} s in {turns:g} turns, in virtual time"


def _slots(scrape: Scrape) -> Iterator[str]:
    slots, free = _total(scrape, "worker_slots"), _total(scrape, "worker_slots_free")
    if free != slots:
        yield f"says that {free:g} of its {slots:g} slots are free at rest"


def _queue_wait(history: History, scrape: Scrape, actor: str) -> Iterator[str]:
    said = _total(scrape, "task_queue_wait_seconds_sum")
    waits = list(_queue_waits(history, actor))
    if abs(said - sum(waits)) > _ROUNDING_SECONDS * (1 + len(waits)):
        yield f"says that tasks waited {said:.3f} s in queues; the log has {sum(waits):.3f} s"


def _queue_waits(history: History, actor: str) -> Iterator[float]:
    for events in history.events.values():
        queued = None
        for event in events:
            if event.to_state == State.QUEUED != event.from_state:
                queued = parse_instant(event.at)
            elif event.reason == Reason.CLAIMED and event.actor == actor and queued is not None:
                yield (parse_instant(event.at) - queued).total_seconds()


def _requests(history: History) -> Iterator[str]:
    said: Counter[tuple[str, str, str]] = Counter()
    for scrape in history.scrapes:
        for sample in scrape.samples:
            if sample.name == "holdfast_http_requests_total":
                labels = sample.labels
                said[labels["method"], labels["route"], labels["status"]] += int(sample.value)
    for op, (method, route) in _ROUTES.items():
        seen = Counter(str(each.value.get("status", 0)) for each in history.of(op))
        if seen["0"]:  # what the API answered to a client that had given up is not known
            continue
        for status in sorted({*seen, *(key[2] for key in said if key[:2] == (method, route))}):
            count = said[method, route, status]
            if count != seen[status]:
                yield (
                    f"the APIs say that {method} {route} was answered with {status} {count} times; "
                    f"the clients saw {seen[status]}"
                )
