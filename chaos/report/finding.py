"""Explain violations: which invariant, when, during which fault, by whom, and the evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chaos.checker.invariants.registry import INVARIANTS
from chaos.checker.invariants.violation import Violation
from chaos.history.history import History
from chaos.history.records import Event, Record, TaskRow
from chaos.report.injections import Injection
from chaos.report.model import RunModel
from chaos.report.story import Gap, StoryLine, shortened
from chaos.report.words import describe, instant_of, source_of


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation, explained.

    ``at``: arena second of the last evidence that has one; ``exact``: the violation happened then
    (a liveness violation has no instant, only a last event). ``during``: the faults active at that
    second, or the last one before, as text. ``piece``: the shortest part of the history that shows
    it; ``asides``: evidence without an instant.
    """

    law: str
    task_id: str | None
    key: str | None
    message: str
    at: float | None
    exact: bool
    during: str
    actors: tuple[str, ...]
    piece: tuple[StoryLine | Gap, ...]
    asides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ViolatedInvariant:
    """A violated invariant with its findings; ``more`` violations of it are not among them."""

    law: str
    sentence: str
    findings: tuple[Finding, ...]
    more: int


def violated_invariants(model: RunModel, most: int) -> tuple[ViolatedInvariant, ...]:
    """Return the violated invariants in check order, each with its first ``most`` violations."""
    return tuple(_violated(model, most))


def _violated(model: RunModel, most: int) -> Iterator[ViolatedInvariant]:
    violations = model.judgement.violations
    for law, count in Counter(v.invariant for v in violations).items():
        mine = [v for v in violations if v.invariant == law]
        mine.sort(key=lambda v: _last_instant(model.history, v) or float("inf"))
        found = tuple(_finding(model, each) for each in mine[:most])
        yield ViolatedInvariant(law, INVARIANTS[law].sentence, found, count - len(found))


def _finding(model: RunModel, violation: Violation) -> Finding:
    history = model.history
    at = _last_instant(history, violation)
    task = history.tasks.get(violation.task_id) if violation.task_id else None
    actors = dict.fromkeys(
        history.actor(record.actor) for record in violation.evidence if isinstance(record, Event)
    )
    lines = (
        model.stories.of(violation.task_id, violation.evidence)
        if violation.task_id
        else _lines(history, violation.evidence)
    )
    return Finding(
        law=violation.invariant,
        task_id=violation.task_id,
        key=task.key if task else None,
        message=violation.message,
        at=at,
        exact=at is not None and violation.invariant.startswith("S"),
        during="" if at is None else during(model.injections, at),
        actors=tuple(actors),
        piece=tuple(shortened(lines)),
        asides=tuple(
            describe(history, record)
            for record in violation.evidence
            if instant_of(history, record) is None
        ),
    )


def during(injected: Sequence[Injection], at: float) -> str:
    """Describe the faults active at that second, else the last one before it; empty if none."""
    active = [injection for injection in injected if injection.covers(at)]
    if active:
        return f"during {', '.join(map(_named, active))}"
    ended = [(each.end, each) for each in injected if each.end is not None and each.end < at]
    if not ended:
        return ""
    end, last = max(ended, key=lambda pair: pair[0])
    return f"{at - end:.3f} s after {_named(last)} ended"


def _named(injection: Injection) -> str:
    return f"{injection.fault_id} ({injection.fault} on {', '.join(injection.targets)})"


def _last_instant(history: History, violation: Violation) -> float | None:
    """Return the last instant of the evidence, not counting final reads."""
    times = [
        at
        for record in violation.evidence
        if not isinstance(record, TaskRow) and (at := instant_of(history, record)) is not None
    ]
    return max(times, default=None)


def _lines(history: History, evidence: Sequence[Record]) -> list[StoryLine]:
    timed = ((instant_of(history, record), record) for record in evidence)
    lines = [
        StoryLine(at, describe(history, record), marked=True, source=source_of(record))
        for at, record in timed
        if at is not None
    ]
    return sorted(lines, key=lambda line: line.at)
