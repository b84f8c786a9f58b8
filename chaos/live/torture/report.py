"""What a torture run found, as a verdict and as text."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from chaos.history.records import Effect, Record, SqlEffect, TaskRow
from chaos.live.torture.victims import Blow
from holdfast.model.lifecycle import TERMINAL, State

KINDS = ("postgres", "valkey", "api", "scheduler", "worker")


@dataclass(slots=True)
class TortureReport:
    """What became of the tasks, by idempotency key, and of the stack."""

    sent: int = 0
    accepted: int = 0
    states: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    blows: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)

    def judge(self, accepted: Mapping[str, str], records: Iterable[Record]) -> None:
        """Compare the accepted tasks, ids by idempotency key, with what the database has."""
        kept = list(records)
        tasks = {record.task_id: record for record in kept if isinstance(record, TaskRow)}
        ledger = Counter(record.task_id for record in kept if isinstance(record, Effect))
        rows = Counter(record.task_id for record in kept if isinstance(record, SqlEffect))
        keys = Counter(task.key for task in tasks.values())
        self.states = Counter(task.state for task in tasks.values())
        for key, task_id in accepted.items():
            if task_id not in tasks or tasks[task_id].key != key:
                self.lost.append(key)
        for task_id in sorted(tasks.keys() | ledger.keys() | rows.keys()):
            task = tasks.get(task_id)
            effects = (ledger[task_id], rows[task_id])
            if task is None:
                self.wrong.append(f"{task_id} is unknown, with effects {effects}")
            elif max(effects) > 1 or keys[task.key] > 1:
                self.doubled.append(f"{task.key} {task_id} with effects {effects}")
            elif effects != ((1, 1) if task.state == State.SUCCEEDED else (0, 0)):
                self.wrong.append(f"{task.key} is {task.state} with effects {effects}")
            elif task.state not in TERMINAL:
                self.unfinished.append(f"{task.key} {task.state}")

    @property
    def succeeded(self) -> bool:
        """Whether the stack kept its promise."""
        kept = not (self.lost or self.unfinished or self.doubled or self.wrong or self.refused)
        return kept and self.accepted > 0

    @property
    def spared(self) -> list[str]:
        """Which of the kinds of process and signal never occurred."""
        kinds = [f"{blow} {kind}" for kind in KINDS for blow in Blow]
        seen = {f"{blow} {name.split('-')[0]}" for blow, name in map(str.split, self.blows)}
        return [kind for kind in kinds if kind not in seen]

    def lines(self) -> Iterator[str]:
        """Yield the report as text."""
        yield f"accepted    {self.accepted} of {self.sent} submitted"
        yield "ended       " + ", ".join(f"{n} {state}" for state, n in sorted(self.states.items()))
        for name in ("lost", "unfinished", "doubled", "wrong", "refused"):
            found: list[str] = getattr(self, name)
            yield f"{name:<11} {len(found)}" + (f": {'; '.join(found[:5])}" if found else "")
        yield "blows       " + (", ".join(f"{n} x {b}" for b, n in sorted(self.blows.items())))
        if self.spared:
            yield "not struck  " + ", ".join(self.spared)
        if self.recoveries:
            yield (
                f"first 201   {statistics.median(self.recoveries):.1f} s (median), "
                f"{max(self.recoveries):.1f} s (longest) after both servers answered again, "
                f"{len(self.recoveries)} times"
            )
