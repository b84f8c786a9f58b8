"""Collect bad histories, derive them from good ones, and check that they are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from life import Life
from specimen import Specimen

from chaos.checker.invariants.registry import INVARIANTS
from chaos.checker.verdict import judge
from chaos.history.history import History
from chaos.history.records import Event, Record, TaskRow
from chaos.scenario.vocabulary import SAFETY, UNCONDITIONAL
from holdfast.model.lifecycle import Reason

Maker = Callable[[Specimen], History]
# Invariants that apply only if the scenario declares them.
CONDITIONAL = frozenset(SAFETY) - {*UNCONDITIONAL}
Change = Callable[[Record], Record | None]


class BadHistories:
    """Register makers with ``@bad("S1", "message")``; ``each`` parametrizes a test with all."""

    def __init__(self) -> None:
        self._cases: list[tuple[str, str, Maker]] = []

    def __call__(self, law: str, message: str) -> Callable[[Maker], None]:
        """Expect the invariant ``law`` to refuse the history with ``message`` in its message."""

        def add(make: Maker) -> None:
            self._cases.append((law, message, make))

        return add

    @property
    def each(self) -> pytest.MarkDecorator:
        ids = [f"{law}: {message}" for law, message, _ in self._cases]
        return pytest.mark.parametrize(("law", "message", "make"), self._cases, ids=ids)


def under(law: str) -> Specimen:
    """Return an empty run whose scenario also declares this invariant."""
    more = [law] if law in CONDITIONAL else []
    return Specimen(plan={"expect": {"always": [*UNCONDITIONAL, *more]}})


def refused(history: History, law: str, message: str) -> None:
    """Check that exactly this invariant is violated, with evidence, and the verdict is false."""
    violations = INVARIANTS[law](history)
    assert [v for v in violations if message in v.message], violations
    assert {v.invariant for v in violations} == {law}
    assert all(v.evidence for v in violations)
    assert judge(history).verdict == "false"


def done(run: Specimen, key: str = "a", **options: object) -> Life:
    """Add a task that succeeds in its first attempt."""
    return run.submit(key, **options).dispatch().claim().succeed()  # type: ignore[arg-type]


def on_event(reason: Reason, change: Callable[[Event], Record | None]) -> Change:
    """Change only the events with this reason."""
    return lambda r: change(r) if isinstance(r, Event) and r.reason == reason else r


def on_row(change: Callable[[TaskRow], Record | None]) -> Change:
    """Change only the final rows."""
    return lambda r: change(r) if isinstance(r, TaskRow) else r


def without(kind: type[Record]) -> Change:
    """Drop every record of this kind."""
    return lambda r: None if isinstance(r, kind) else r


def copy_of(kind: type[Record], run: Specimen) -> Record:
    """Return the first record of this kind."""
    return next(record for record in run.all_records() if isinstance(record, kind))
