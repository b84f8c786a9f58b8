"""Merge the records about one task (clients, database, sink, faults) in time order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from chaos.history.history import History, Operation
from chaos.history.records import Fault, Record, SinkCall
from chaos.observers import otlp
from chaos.report.words import Source, describe, instant_of, source_of

# A long story is shortened to its beginning and this many lines around each piece of evidence.
_OPENING_LINES = 2
_CONTEXT_LINES = 3


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One line; ``at`` is in arena seconds, ``marked`` lines are evidence of a violation."""

    at: float
    text: str
    marked: bool
    source: Source


@dataclass(frozen=True, slots=True)
class Gap:
    """A number of lines left out."""

    lines: int


class Stories:
    """Indexes a history once, for the stories of its tasks."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._operations: defaultdict[str, list[Operation]] = defaultdict(list)
        for operation in history.operations.values():
            for task_id in self._subjects(operation):
                self._operations[task_id].append(operation)
        self._calls: defaultdict[str, list[SinkCall]] = defaultdict(list)
        for calls in history.sink_calls.values():
            for call in calls:
                self._calls[call.task_id].append(call)
        self._faults = [
            record for records in history.faults.values() for record in records if _is_shown(record)
        ]

    def operations(self, task_id: str) -> Sequence[Operation]:
        """Return the client operations on a task, found by its id or its key."""
        return self._operations.get(task_id, ())

    def of(self, task_id: str, evidence: Iterable[Record] = ()) -> list[StoryLine]:
        """Return all lines of a task in time order; empty if there is no record of it.

        They include the evidence, and the faults that began or ended in its time.
        """
        shown = {id(record): record for record in evidence}
        mine = {id(record): record for record in self._records(task_id)}
        lines = sorted(
            (
                self._line(record, at, marked=id(record) in shown)
                for record in (mine | shown).values()
                if (at := instant_of(self._history, record)) is not None
            ),
            key=lambda line: line.at,
        )
        if not lines:
            return []
        first, last = lines[0].at, lines[-1].at
        during = [self._line(f, f.at, marked=False) for f in self._faults if first <= f.at <= last]
        return sorted([*lines, *during], key=lambda line: line.at)

    def _line(self, record: Record, at: float, *, marked: bool) -> StoryLine:
        return StoryLine(at, describe(self._history, record), marked, source_of(record))

    def _subjects(self, operation: Operation) -> set[str]:
        value, found = operation.value, set()
        if isinstance(value.get("task_id"), str):
            found.add(value["task_id"])
        key = operation.full_key
        task = self._history.task_by_key.get(key) if key is not None else None
        if task is not None:
            found.add(task.task_id)
        return found

    def _records(self, task_id: str) -> Iterator[Record]:
        history = self._history
        for operation in self.operations(task_id):
            yield operation.invoke
            if operation.completion is not None:
                yield operation.completion
        yield from history.events.get(task_id, ())
        yield from history.effects.get(task_id, ())
        yield from history.sql_effects.get(task_id, ())
        yield from history.stale_writes.get(task_id, ())
        yield from self._calls.get(task_id, ())
        if task_id in history.tasks:
            task = history.tasks[task_id]
            parent = otlp.parse_traceparent(task.traceparent)
            yield from history.spans.get(parent.trace_id, ()) if parent else ()
            yield task


def story(
    history: History,
    task_id: str,
    evidence: tuple[Record, ...] = (),
    stories: Stories | None = None,
    *,
    whole: bool = False,
) -> list[str]:
    """Return the story as lines of text; evidence is marked with ``>``.

    Lines far from the evidence are left out unless ``whole``. Pass ``stories`` of the same history
    for several stories without indexing it again.
    """
    lines = (stories or Stories(history)).of(task_id, evidence)
    if not lines:
        return ["  (no record of it)"]
    return [
        f"             ... {part.lines} more"
        if isinstance(part, Gap)
        else f"  {'>' if part.marked else ' '} {part.at:8.3f} {part.text}"
        for part in (lines if whole else shortened(lines))
    ]


def shortened(lines: Sequence[StoryLine]) -> Iterator[StoryLine | Gap]:
    """Yield the opening and the context of the evidence; without evidence, everything."""
    marks = [place for place, line in enumerate(lines) if line.marked]
    left_out = 0
    for place, line in enumerate(lines):
        near = any(abs(place - mark) <= _CONTEXT_LINES for mark in marks)
        if marks and place >= _OPENING_LINES and not near:
            left_out += 1
            continue
        if left_out:
            yield Gap(left_out)
            left_out = 0
        yield line
    if left_out:
        yield Gap(left_out)


def _is_shown(record: Fault) -> bool:
    """Return whether a story shows the record: start and end, not when it was observed."""
    return record.type != "felt"
