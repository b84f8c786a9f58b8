"""Measure what the faults of simulated runs hit; a true verdict does not show it.

Two tables, summed over all seeds. Fault by state: the number of injections during which some task
was in that state. Fault by statement: how often that statement was the last one of its process
before the injection (``after``), and the first one from then on (``before``), which for a killed
process is one that was on the wire. A fault of a server affects every process.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chaos.history.history import History
from chaos.history.records import Fault
from chaos.scenario.vocabulary import SERVERS
from chaos.simulation.postgres import ExecutedStatement
from holdfast.model.lifecycle import State

_STATES = tuple(state.value for state in State)
_LOGIN = ("select ", "show ", "SELECT current_setting", "WITH RECURSIVE typeinfo")
_FAULTS_ABREAST = 6
_ROLES = ("api", "scheduler", "worker")


@dataclass(slots=True)
class Coverage:
    """Counts by (fault, cell); ``statements`` by name; ``injections`` by fault; ``sometimes``."""

    injections: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    before: Counter[str] = field(default_factory=Counter)
    statements: Counter[str] = field(default_factory=Counter)
    sometimes: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, history: History, done: Iterable[ExecutedStatement], zero: float) -> Coverage:
        """Measure one run. ``zero``: the virtual second of its arena second 0."""
        found = cls()
        by_client: defaultdict[str, list[ExecutedStatement]] = defaultdict(list)
        for statement in done:
            if statement.client.partition("-")[0] in _ROLES:
                by_client[statement.client].append(statement)
                found.statements[_name(statement)] += 1
        injections = [r for rs in history.faults.values() for r in rs if r.type == "start"]
        for injection in injections:
            found.injections[injection.fault] += 1
            for state in _states_at(history, injection.at):
                found.states[f"{injection.fault} {state}"] += 1
            for client in _affected(injection, by_client):
                found._between(injection.fault, by_client[client], injection.at + zero)
        return found

    @classmethod
    def parse(cls, document: Mapping[str, Mapping[str, int]]) -> Coverage:
        """Convert back from ``document``."""
        return cls(**{name: Counter(counts) for name, counts in document.items()})

    @property
    def document(self) -> dict[str, dict[str, int]]:
        """The counts as plain JSON values."""
        return {name: dict(getattr(self, name)) for name in self.__slots__}

    def add(self, other: Coverage) -> None:
        """Add the counts of another run."""
        for name in self.__slots__:
            getattr(self, name).update(getattr(other, name))

    def tables(self) -> str:
        """Format both tables and the ``sometimes``; a dot marks a cell that no fault reached."""
        faults = sorted(self.injections)
        lines = [f"{'fault by state':<20}{'injected':>9}" + "".join(f"{s:>11}" for s in _STATES)]
        lines += [
            f"{fault:<20}{self.injections[fault]:>9}"
            + "".join(f"{_cell(self.states[f'{fault} {s}']):>11}" for s in _STATES)
            for fault in faults
        ]
        for first in range(0, len(faults), _FAULTS_ABREAST):
            lines += ["", *self._statement_lines(faults[first : first + _FAULTS_ABREAST])]
        sometimes = [f"{name} {count}" for name, count in sorted(self.sometimes.items())]
        return "\n".join([*lines, "", f"sometimes: {', '.join(sometimes)}"])

    def _statement_lines(self, faults: list[str]) -> list[str]:
        names = sorted(self.statements, key=lambda name: (-self.statements[name], name))
        head = f"{'statement: after/before':<26}{'made':>8}"
        return [head + "".join(f"{fault[:11]:>12}" for fault in faults)] + [
            f"{name[:25]:<26}{self.statements[name]:>8}"
            + "".join(f"{self._pair(fault, name):>12}" for fault in faults)
            for name in names
        ]

    def _pair(self, fault: str, name: str) -> str:
        key = f"{fault} {name}"
        return f"{_cell(self.after[key])}/{_cell(self.before[key])}"

    def _between(self, fault: str, done: list[ExecutedStatement], at: float) -> None:
        """Count the last statement before the instant and the first one after it."""
        place = bisect_right([statement.at for statement in done], at)
        if place:
            self.after[f"{fault} {_name(done[place - 1])}"] += 1
        if place < len(done):
            self.before[f"{fault} {_name(done[place])}"] += 1


def _name(statement: ExecutedStatement) -> str:
    """Return the statement's name; all queries of a driver's login share one."""
    return "(login)" if statement.name.startswith(_LOGIN) else statement.name


def _cell(count: int) -> str:
    return str(count) if count else "."


def _states_at(history: History, at: float) -> set[str]:
    """Return the states of all tasks at that arena second."""
    found = set()
    for events in history.events.values():
        last = None
        for event in events:
            if history.seconds(event.at) > at:
                break
            last = event.to_state
        if last is not None:
            found.add(last)
    return found


def _affected(injection: Fault, known: Mapping[str, Any]) -> list[str]:
    """Return the processes that a fault affected."""
    if set(injection.targets) & set(SERVERS):
        return sorted(known)
    return sorted({target.partition("->")[0] for target in injection.targets} & known.keys())
