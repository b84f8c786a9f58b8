"""List the tasks of a run with the facts of each, the most interesting ones first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from chaos.checker.invariants.liveness import lifetimes
from chaos.history.history import History
from chaos.report.model import RunModel
from holdfast.model.lifecycle import TERMINAL, State


class Tag(StrEnum):
    """Why a reader would look at a task, in descending order of interest."""

    VIOLATED = "violated"
    STALE = "stale write"
    LOST = "lost"
    OPEN = "open"
    FAILED = "failed"
    DUPLICATE = "duplicate"
    RELEASED = "released"
    RETRIED = "retried"
    CANCELLED = "cancelled"


# A task with one of these tags is always shown.
_ALWAYS = frozenset(Tag) - {Tag.CANCELLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEntry:
    """One task; ``state`` is None if it has no row in the final read.

    ``late``: seconds from due to effect; ``laws``: invariants that it violates.
    """

    task_id: str
    key: str | None
    name: str | None
    state: str | None
    attempts: int
    losses: int
    stale_writes: int
    due: float | None
    late: float | None
    laws: tuple[str, ...]
    tags: tuple[Tag, ...]

    @property
    def kept(self) -> bool:
        """Whether it is shown regardless of the number of tasks."""
        return not _ALWAYS.isdisjoint(self.tags)


def catalogue(model: RunModel) -> list[TaskEntry]:
    """Return every task of the final read, and every task that only a violation names."""
    judgement, history = model.judgement, model.history
    laws: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for violation in judgement.violations:
        if violation.task_id:
            laws[violation.task_id][violation.invariant] = None
    suppressed = Counter(
        call.task_id for calls in history.sink_calls.values() for call in calls if not call.applied
    )
    late = {latency.task_id: latency.seconds for latency in model.latencies}
    due = {each.task.task_id: each.due for each in history.view(lifetimes)}
    known = dict.fromkeys([*history.tasks, *laws])
    entries = [
        _entry(history, task_id, tuple(laws.get(task_id, ())), suppressed[task_id], due, late)
        for task_id in known
    ]
    return sorted(entries, key=_interest)


def chosen(entries: Sequence[TaskEntry], most: int) -> list[TaskEntry]:
    """Return the entries to show, in order.

    These are all that must be shown, and an even sample of the others that fills up to ``most``.
    """
    room = max(0, most - sum(entry.kept for entry in entries))
    ordinary = [entry.task_id for entry in entries if not entry.kept]
    step = max(1.0, len(ordinary) / room) if room else 0.0
    sample = {ordinary[int(n * step)] for n in range(min(room, len(ordinary)))}
    return [entry for entry in entries if entry.kept or entry.task_id in sample]


def _entry(
    history: History,
    task_id: str,
    laws: tuple[str, ...],
    suppressed: int,
    due: dict[str, float],
    late: dict[str, float],
) -> TaskEntry:
    task = history.tasks.get(task_id)
    stale = len(history.stale_writes.get(task_id, ()))
    return TaskEntry(
        task_id=task_id,
        key=task.key if task else None,
        name=task.name if task else None,
        state=task.state if task else None,
        attempts=task.attempt if task else 0,
        losses=task.losses if task else 0,
        stale_writes=stale,
        due=due.get(task_id),
        late=late.get(task_id),
        laws=laws,
        tags=tuple(_tags(history, task_id, laws, stale, suppressed)),
    )


def _tags(
    history: History, task_id: str, laws: tuple[str, ...], stale: int, suppressed: int
) -> Iterator[Tag]:
    task = history.tasks.get(task_id)
    tagged = {
        Tag.VIOLATED: bool(laws),
        Tag.STALE: stale > 0,
        Tag.LOST: task is not None and task.losses > 0,
        Tag.OPEN: task is not None and task.state not in TERMINAL,
        Tag.FAILED: task is not None and task.state == State.FAILED,
        Tag.DUPLICATE: suppressed > 0,
        Tag.RELEASED: task is not None and task.handed_back > 0,
        Tag.RETRIED: task is not None and task.attempt > 1,
        Tag.CANCELLED: task is not None and task.state == State.CANCELLED,
    }
    yield from (tag for tag in Tag if tagged[tag])


def _interest(entry: TaskEntry) -> tuple[int, int, float, str]:
    order = list(Tag)
    first = min((order.index(tag) for tag in entry.tags), default=len(order))
    return first, -len(entry.tags), -(entry.late or 0.0), entry.task_id
