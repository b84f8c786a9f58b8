"""Bad histories: how they are collected, made out of good ones, and must be refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from specimen import Life, Specimen

from chaos.checker.invariants.registry import INVARIANTS
from chaos.checker.verdict import judge
from chaos.history.history import History
from chaos.history.records import Event, Record, TaskRow
from chaos.scenario.vocabulary import SAFETY, UNCONDITIONAL
from holdfast.model.lifecycle import Reason

Maker = Callable[[Specimen], History]
# Invariants that hold only where the scenario says so.
CONDITIONAL = frozenset(SAFETY) - {*UNCONDITIONAL}
Change = Callable[[Record], Record | None]


class BadHistories:
    """``@bad("S1", "what it says")`` above each maker; ``each`` for one test of all."""

    def __init__(self) -> None:
        self._cases: list[tuple[str, str, Maker]] = []

    def __call__(self, law: str, message: str) -> Callable[[Maker], None]:
        """The history must be refused by ``law`` with ``message`` in what it says."""

        def add(make: Maker) -> None:
            self._cases.append((law, message, make))

        return add

    @property
    def each(self) -> pytest.MarkDecorator:
        ids = [f"{law}: {message}" for law, message, _ in self._cases]
        return pytest.mark.parametrize(("law", "message", "make"), self._cases, ids=ids)


def under(law: str) -> Specimen:
    """An empty run whose scenario demands this law too."""
    more = [law] if law in CONDITIONAL else []
    return Specimen(plan={"expect": {"always": [*UNCONDITIONAL, *more]}})


def refused(history: History, law: str, message: str) -> None:
    """The law is named, no other one; there is evidence; and the verdict is false."""
    violations = INVARIANTS[law](history)
    assert [v for v in violations if message in v.message], violations
    assert {v.invariant for v in violations} == {law}
    assert all(v.evidence for v in violations)
    assert judge(history).verdict == "false"


def done(run: Specimen, key: str = "a", **options: object) -> Life:
    """A task that went the straight way."""
    return run.submit(key, **options).dispatch().claim().succeed()  # type: ignore[arg-type]


def on_event(reason: Reason, change: Callable[[Event], Record | None]) -> Change:
    """Changes the events of one reason, nothing else."""
    return lambda r: change(r) if isinstance(r, Event) and r.reason == reason else r


def on_row(change: Callable[[TaskRow], Record | None]) -> Change:
    """Changes the final rows, nothing else."""
    return lambda r: change(r) if isinstance(r, TaskRow) else r


def without(kind: type[Record]) -> Change:
    """Drops every record of that kind."""
    return lambda r: None if isinstance(r, kind) else r


def copy_of(kind: type[Record], run: Specimen) -> Record:
    """The first record of that kind."""
    return next(record for record in run.all_records() if isinstance(record, kind))
