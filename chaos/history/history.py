"""Reads and writes the history of a run as JSON lines: the only input of the checker.

Each line is one record of ``chaos.history.records``. All arenas write it (``HistoryWriter``),
``load`` reads it, and invariants are pure functions of ``History``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, TypeVar

from chaos.errors import ChaosError
from chaos.history.conditions import Condition
from chaos.history.records import (
    Effect,
    Event,
    Exit,
    Fault,
    Key,
    Op,
    PhaseStart,
    Record,
    Run,
    SinkCall,
    Sometimes,
    SqlEffect,
    StaleWrite,
    TaskRow,
    Unready,
    Worker,
    decode,
    encode,
    parse_instant,
)
from chaos.history.rest import HintsAtRest, Scrape
from chaos.history.spans import Span
from holdfast.model.task import DEFAULT_NAMESPACE

_T = TypeVar("_T")


class HistoryError(ChaosError):
    """A history cannot be read; the message names the file, the line and the problem."""


class HistoryWriter:
    """Appends records and flushes each, so that a crashed harness leaves a valid prefix."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")

    def write(self, *records: Record) -> None:
        """Append records in order."""
        self._file.write(b"".join(encode(record) for record in records))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read(path: Path) -> Iterator[Record]:
    """Yield the records of a file, keeping one line in memory at a time.

    Raises:
        HistoryError: a line is invalid; the message has file and line number.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield decode(line)
            except ValueError as error:
                raise HistoryError(f"{path}:{number}: {error}") from None


def load(path: Path) -> History:
    """Load and index the history of a file.

    Raises:
        HistoryError: a line is invalid, the run record is not first, or records contradict.
        OSError: the file cannot be opened.
    """
    try:
        return History(read(path))
    except HistoryError as error:
        message = str(error)
        raise HistoryError(message if message.startswith(str(path)) else f"{path}: {error}") from (
            None
        )


@dataclass(frozen=True, slots=True)
class Operation:
    """Both halves of a client operation; ``type`` is info if it has no completion."""

    invoke: Op
    completion: Op | None

    @property
    def type(self) -> Literal["ok", "fail", "info"]:
        kind = self.completion.type if self.completion else "info"
        return "info" if kind == "invoke" else kind

    @property
    def value(self) -> dict[str, Any]:
        """The values of the invoke, overlaid with those of the completion."""
        return self.invoke.value | (self.completion.value if self.completion else {})

    @property
    def full_key(self) -> Key | None:
        """The namespace and the key in it that a submit was sent with; None without a key."""
        sent = self.invoke.value
        if sent.get("key") is None:
            return None
        return str(sent.get("key_namespace", DEFAULT_NAMESPACE)), str(sent["key"])


class History:
    """All records of a run, immutable, with the views that invariants need.

    Raises:
        HistoryError: the run record is not first or not unique, the halves of an operation do not
            match, or the final read has a task twice.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records: tuple[Record, ...] = tuple(records)
        runs = self._all(Run)
        if len(runs) != 1 or not isinstance(self.records[0], Run):
            raise HistoryError(
                f"a history starts with its only run record; this one has {len(runs)}"
            )
        self.run: Run = runs[0]
        self.tasks: dict[str, TaskRow] = {}
        for task in self._all(TaskRow):
            if task.task_id in self.tasks:
                raise HistoryError(f"task {task.task_id} is twice in the final read")
            self.tasks[task.task_id] = task
        self.operations: dict[str, Operation] = self._pair(self._all(Op))
        self._views: dict[Callable[[History], Any], Any] = {}
        self.phases: dict[str, float] = {phase.phase: phase.at for phase in self._all(PhaseStart)}

    def view(self, compute: Callable[[History], _T]) -> _T:
        """Return ``compute(self)``, computed once per history."""
        if compute not in self._views:
            self._views[compute] = compute(self)
        found: _T = self._views[compute]
        return found

    def _all(self, kind: type[_T]) -> list[_T]:
        return [record for record in self.records if isinstance(record, kind)]

    @staticmethod
    def _pair(halves: list[Op]) -> dict[str, Operation]:
        pairs: dict[str, Operation] = {}
        for half in halves:
            known = pairs.get(half.op_id)
            if half.type == "invoke":
                if known is not None:
                    raise HistoryError(f"operation {half.op_id} is invoked twice")
                pairs[half.op_id] = Operation(half, None)
            elif known is None or known.completion is not None or known.invoke.op != half.op:
                raise HistoryError(
                    f"operation {half.op_id}: {half.op} {half.type} completes no open invoke"
                )
            else:
                pairs[half.op_id] = Operation(known.invoke, half)
        return pairs

    def of(self, op: str) -> list[Operation]:
        """Return all operations of one kind in the order of their invokes."""
        return [pair for pair in self.operations.values() if pair.invoke.op == op]

    @cached_property
    def events(self) -> dict[str, tuple[Event, ...]]:
        """Events by task in the order of ``seq``, which is the order of the database."""
        grouped = _group(self._all(Event), "task_id")
        return {key: tuple(sorted(rows, key=lambda e: e.seq)) for key, rows in grouped.items()}

    @cached_property
    def effects(self) -> dict[str, tuple[Effect, ...]]:
        """Ledger rows by task."""
        return _group(self._all(Effect), "task_id")

    @cached_property
    def sql_effects(self) -> dict[str, tuple[SqlEffect, ...]]:
        """Business rows by task."""
        return _group(self._all(SqlEffect), "task_id")

    @cached_property
    def sink_calls(self) -> dict[str, tuple[SinkCall, ...]]:
        """Physical calls by effect key."""
        return _group(self._all(SinkCall), "key")

    @cached_property
    def stale_writes(self) -> dict[str, tuple[StaleWrite, ...]]:
        """Refused writes by task."""
        return _group(self._all(StaleWrite), "task_id")

    @cached_property
    def workers(self) -> dict[str, Worker]:
        """Incarnations by id."""
        return {worker.worker_id: worker for worker in self._all(Worker)}

    @cached_property
    def faults(self) -> dict[str, tuple[Fault, ...]]:
        """Fault records by injection."""
        return _group(self._all(Fault), "fault_id")

    @cached_property
    def scrapes(self) -> tuple[Scrape, ...]:
        """What the processes said at /metrics."""
        return tuple(self._all(Scrape))

    @cached_property
    def hints_at_rest(self) -> tuple[HintsAtRest, ...]:
        """What Redis held after every task was terminal."""
        return tuple(self._all(HintsAtRest))

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """What was seen of the environment."""
        return tuple(self._all(Condition))

    @cached_property
    def core(self) -> tuple[str, ...]:
        """The processes that were healed; empty without a heal."""
        return next((p.core for p in self._all(PhaseStart) if p.phase == "healed"), ())

    @cached_property
    def unready(self) -> tuple[Unready, ...]:
        """Roles that did not become ready."""
        return tuple(self._all(Unready))

    @cached_property
    def exits(self) -> dict[str, tuple[Exit, ...]]:
        """Exits of processes by actor."""
        return _group(self._all(Exit), "actor")

    @cached_property
    def spans(self) -> dict[str, tuple[Span, ...]]:
        """Spans by trace in the order of their arrival."""
        return _group(self._all(Span), "trace_id")

    @cached_property
    def sometimes(self) -> dict[str, Sometimes]:
        """Occurrences reported by the arena, by name; one that held takes precedence."""
        ordered = sorted(self._all(Sometimes), key=lambda record: record.held)
        return {record.name: record for record in ordered}

    @cached_property
    def task_by_key(self) -> dict[Key, TaskRow]:
        """Final rows by namespace and idempotency key (S10 reports keys that are on two rows)."""
        return {key: task for task in self.tasks.values() if (key := task.full_key) is not None}

    def find_task(self, text: str) -> TaskRow | None:
        """Return the final row with this id, or the first one with this key in any namespace."""
        named = (task for task in self.tasks.values() if task.key == text)
        return self.tasks.get(text) or next(named, None)

    def task_of(self, submit: Operation) -> TaskRow | None:
        """Return the final row created by a submit, by its key, else by the answered task id."""
        key, task_id = submit.full_key, submit.value.get("task_id")
        by_key = self.task_by_key.get(key) if key is not None else None
        return by_key or (self.tasks.get(task_id) if task_id is not None else None)

    @cached_property
    def submits_by_task(self) -> dict[str, tuple[Operation, ...]]:
        """Submits by the final row that each created or may have created."""
        found: defaultdict[str, list[Operation]] = defaultdict(list)
        for submit in self.of("submit"):
            task = self.task_of(submit)
            if task is not None:
                found[task.task_id].append(submit)
        return {task_id: tuple(submits) for task_id, submits in found.items()}

    def actor(self, actor: str) -> str:
        """Return the display name of an actor: a worker's label and incarnation."""
        role, _, who = actor.partition(":")
        worker = self.workers.get(who) if role == "worker" else None
        return f"{worker.label} ({who[-8:]})" if worker else who or actor

    @cached_property
    def _epoch(self) -> datetime:
        return parse_instant(self.run.database_epoch)

    def seconds(self, instant: str) -> float:
        """Convert a database instant to arena seconds (for liveness, never for safety)."""
        return (parse_instant(instant) - self._epoch).total_seconds()


def _group(rows: Iterable[_T], attribute: str) -> dict[str, tuple[_T, ...]]:
    grouped: defaultdict[str, list[_T]] = defaultdict(list)
    for row in rows:
        grouped[getattr(row, attribute)].append(row)
    return {key: tuple(values) for key, values in grouped.items()}
