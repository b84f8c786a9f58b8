"""Describe a run as a story: one line per event, ordered by virtual second.

Two sources are merged. The history has the transitions of tasks, each at its instant of the
database's clock; the trace has what processes and servers did: start, exit, wait for a lock, hold a
commit, publish a hint. Steps that changed nothing are only counted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from chaos.checker.verdict import Judgement
from chaos.history import records
from chaos.history.records import Op, Record, parse_instant
from chaos.report.words import describe
from chaos.simulation import trace_words
from chaos.simulation.kernel.node import EPOCH
from chaos.simulation.kernel.trace import Entry
from chaos.simulation.trace_words import StatementAnswer

# The precision of database instants, and the longest time that a commit is held.
_INSTANT_SECONDS = 2e-6
_HELD_SECONDS_MAX = 0.06
_WHO_WIDTH = 20
_HARNESS = "harness"
_STEPS: Mapping[str, str] = MappingProxyType({"start": "begins", "felt": "observed", "end": "ends"})
# The statement that wrote an event, by reason.
_STATEMENTS: Mapping[str, str] = MappingProxyType(
    {
        "submitted": "submit",
        "dispatched": "dispatch",
        "republished": "republish",
        "claimed": "claim",
        "succeeded": "finish",
        "lost": "reclaim",
        "cancel_requested": "cancel",
        "retried": "retry",
    }
)


@dataclass(frozen=True, slots=True)
class NarratedEvent:
    """One line. ``at``: virtual seconds; ``task``: the id of its task, or "".

    ``common``: it affects all tasks, like a fault. ``marked``: it is evidence of a violation.
    ``by``: the statement that caused it ("": any of the same process and instant).
    """

    at: float
    who: str
    what: str
    task: str = ""
    common: bool = False
    marked: bool = False
    by: str = ""


class Story:
    """The lines of one run. ``zero``: the virtual second of arena second 0."""

    def __init__(self, judgement: Judgement, entries: Sequence[Entry]) -> None:
        self._history = history = judgement.history
        self.zero = virtual_seconds(history.run.database_epoch)
        self._evidence = {id(r) for v in judgement.violations for r in v.evidence}
        self._owners = {
            (event.task_id, event.epoch): self._label(event.actor)
            for events in history.events.values()
            for event in events
            if event.reason == "claimed"
        }
        self._answers = [(n, a) for n, e in enumerate(entries) if (a := trace_words.answer(e))]
        self._by_client: defaultdict[str, list[tuple[int, StatementAnswer]]] = defaultdict(list)
        for number, answer in self._answers:
            self._by_client[answer.who].append((number, answer))
        self._merged: set[int] = set()  # numbers of trace entries that lines of the history cover
        self.left_out = 0
        lines = [self._with_statement(line) for line in self._recorded()]
        lines += self._traced(entries)
        self.lines = sorted(lines, key=lambda line: round(line.at, 6))

    def text(self, task: str | None = None) -> list[str]:
        """Return aligned lines; ``task`` (key or id): only its lines and the faults meanwhile.

        Raises:
            LookupError: the run has no such task.
        """
        lines = self.lines if task is None else self.of(self._id(task))
        rows = [self.row(line) for line in lines]
        if task is None:
            rows.append(f"{'':13}({self.left_out} steps that changed nothing are left out)")
        return rows

    def row(self, line: NarratedEvent) -> str:
        """Format one line, with arena seconds."""
        mark = ">" if line.marked else " "
        return f"{mark}{line.at - self.zero:10.4f}  {line.who:<{_WHO_WIDTH}} {line.what}"

    def of(self, task_id: str) -> list[NarratedEvent]:
        """Return the lines of one task, and the common ones between its first and its last."""
        mine = [line.at for line in self.lines if line.task == task_id]
        return [
            line
            for line in self.lines
            if line.task == task_id or (line.common and mine and min(mine) <= line.at <= max(mine))
        ]

    def name(self, task_id: str) -> str:
        """Return the key of a task, else the end of its id."""
        task = self._history.tasks.get(task_id)
        return (task.key if task else None) or f"…{task_id[-8:]}"

    # ------------------------------------------------------------------ the history

    def _recorded(self) -> Iterator[NarratedEvent]:
        for record in self._history.records:
            for line in self._lines(record):
                yield replace(line, marked=id(record) in self._evidence)

    def _lines(self, record: Record) -> Iterator[NarratedEvent]:
        history = self._history
        match record:
            case Op():
                yield self._operation(record)
            case records.Event():
                what = f"{record.from_state or '-'} -> {record.to_state} "
                what += f"({records.reason_text(record.reason)})"
                what += f", epoch {record.epoch}, attempt {record.attempt}"
                line = self._about(record.at, self._label(record.actor), record.task_id, what)
                yield replace(line, by=_STATEMENTS.get(record.reason, ""))
            case records.Effect() | records.SqlEffect():
                # An owned epoch is odd; a ledger row has the even one that the finish wrote.
                owned = record.epoch - (record.epoch + 1) % 2
                who = self._owners.get((record.task_id, owned), "postgres")
                yield self._about(record.at, who, record.task_id, describe(history, record))
            case records.StaleWrite():
                who = f"worker:{record.worker_id}"
                what = describe(history, record).replace(f" by {history.actor(who)}", "")
                yield self._about(record.at, self._label(who), record.task_id, what)
            case records.SinkCall():
                line = self._about(None, "sink", record.task_id, describe(history, record))
                yield replace(line, at=record.at + self.zero)
            case records.Worker():
                yield from self._incarnation(record)
            case records.Fault() | records.PhaseStart():
                yield self._milestone(record)
            case _:
                pass  # has no instant

    def _milestone(self, record: records.Fault | records.PhaseStart) -> NarratedEvent:
        at = record.at + self.zero
        if isinstance(record, records.PhaseStart):
            return NarratedEvent(at, "", f"======== {record.phase} ========", common=True)
        flight = record.in_flight
        met = f", {flight.open} tasks open, {flight.running} running" if flight else ""
        what = f"== {record.fault_id}: {record.fault} {_STEPS[record.type]}{met}"
        return NarratedEvent(at, ", ".join(record.targets), what, common=True)

    def _operation(self, half: Op) -> NarratedEvent:
        operation = self._history.operations[half.op_id]
        completion, key = operation.completion, operation.full_key
        answered = completion.value.get("task_id") if completion is not None else None
        known = self._history.task_by_key.get(key) if key is not None else None
        task_id = known.task_id if known else half.value.get("task_id") or answered or ""
        what = describe(self._history, half).removeprefix(f"{half.process} ")
        name = f"{self.name(task_id)}  " if task_id else ""
        return NarratedEvent(half.at + self.zero, half.process, name + what, task_id)

    def _incarnation(self, worker: records.Worker) -> Iterator[NarratedEvent]:
        short = worker.worker_id[-8:]
        at = virtual_seconds(worker.started_at)
        yield NarratedEvent(at, worker.label, f"registers as {short}", common=True)
        if worker.dead_at:
            at = virtual_seconds(worker.dead_at)
            what = f"{worker.label} ({short}) is marked dead: {worker.dead_reason}"
            yield NarratedEvent(at, self._marker(at), what, common=True)

    def _about(self, at: str | None, who: str, task_id: str, what: str) -> NarratedEvent:
        second = virtual_seconds(at) if at is not None else 0.0
        return NarratedEvent(second, who, f"{self.name(task_id)}  {what}", task_id)

    def _label(self, actor: str) -> str:
        role, _, who = actor.partition(":")
        worker = self._history.workers.get(who) if role == "worker" else None
        return worker.label if worker else who or actor

    def _id(self, task: str) -> str:
        row = self._history.find_task(task)
        task_id = row.task_id if row else task
        if not any(line.task == task_id for line in self.lines):
            keys = sorted(key for _, key in self._history.task_by_key)
            there = f"its tasks are {keys[0]} to {keys[-1]}" if keys else "it has none"
            raise LookupError(f"no task {task} in this run; {there}")
        return task_id

    # ------------------------------------------------------------------ statements

    def _with_statement(self, line: NarratedEvent) -> NarratedEvent:
        """Append lock wait and held commit of the statement that made a transition."""
        around = self._by_client.get(line.who, [])
        begin = line.at - _INSTANT_SECONDS
        for number, answer in around[bisect_left(around, begin, key=lambda each: each[1].at) :]:
            if answer.at > line.at + _HELD_SECONDS_MAX:
                break
            late = answer.at > line.at + _INSTANT_SECONDS
            if late and not (answer.held and line.by in {"", answer.name}):
                continue
            self._merged.add(number)
            until = f" (committed at {answer.at - self.zero:.4f})" if late else ""
            return replace(line, what=line.what + " (after a lock wait)" * answer.waited + until)
        return line

    def _marker(self, at: float) -> str:
        """Return the process whose statement marked a worker dead at that instant."""
        for _, answer in self._answers:
            if answer.name in {"mark_dead", "retire"} and answer.rows:
                longest = _HELD_SECONDS_MAX if answer.held else _INSTANT_SECONDS
                if -_INSTANT_SECONDS <= answer.at - at <= longest:
                    return answer.who
        return "postgres"

    # ------------------------------------------------------------------ the trace

    def _traced(self, entries: Iterable[Entry]) -> Iterator[NarratedEvent]:
        for number, entry in enumerate(entries):
            if entry.who.startswith((_HARNESS, "history")):
                continue
            failed = (answer := trace_words.answer(entry)) is not None and answer.failed
            if number in self._merged and not failed:
                continue
            line = self._event(entry)
            if line is None:
                self.left_out += 1
            else:
                yield line

    def _event(self, entry: Entry) -> NarratedEvent | None:
        if hint := trace_words.published(entry):
            what = f"{self.name(hint[0])}  publishes its hint, epoch {hint[1]}"
            return NarratedEvent(entry.at, entry.who, what, hint[0])
        what = trace_words.describe(entry)
        common = entry.kind in {"node", "fault"}
        return NarratedEvent(entry.at, entry.who, what, common=common) if what else None


def virtual_seconds(instant: str) -> float:
    """Convert an instant of the simulated database to virtual seconds."""
    return parse_instant(instant).timestamp() - EPOCH
