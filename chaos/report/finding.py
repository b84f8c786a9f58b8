"""A violation with what an engineer asks next: which law, when, during which fault, who, how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chaos.history import History
from chaos.invariants.registry import INVARIANTS
from chaos.invariants.violation import Violation
from chaos.records import Event, Record, Task
from chaos.report.story import Gap, Line, Stories, shortened
from chaos.report.strikes import Strike, strikes
from chaos.report.words import moment, witness, words
from chaos.verdict import Judgement


@dataclass(frozen=True, slots=True)
class Finding:
    """``at``: arena second of the last evidence that has one; ``exact``: the law broke then (what
    liveness misses has no instant: there it is only what was last seen). ``during``: in words, the
    faults of that second, or the last one before. ``piece``: the shortest piece of history that
    shows it; ``asides``: evidence that belongs to no instant.
    """

    law: str
    task_id: str | None
    key: str | None
    message: str
    at: float | None
    exact: bool
    during: str
    actors: tuple[str, ...]
    piece: tuple[Line | Gap, ...]
    asides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """A law with its findings; ``more`` violations of it are not among them."""

    law: str
    sentence: str
    findings: tuple[Finding, ...]
    more: int


def broken(judgement: Judgement, most: int) -> tuple[Broken, ...]:
    """The violated laws in the order of their checks, each with its first ``most`` violations."""
    return tuple(_broken(judgement, most))


def _broken(judgement: Judgement, most: int) -> Iterator[Broken]:
    history = judgement.history
    stories, struck = Stories(history), strikes(history)
    for law, count in Counter(v.invariant for v in judgement.violations).items():
        mine = [v for v in judgement.violations if v.invariant == law]
        mine.sort(key=lambda v: _last_instant(history, v) or float("inf"))
        found = tuple(_finding(history, stories, struck, each) for each in mine[:most])
        yield Broken(law, INVARIANTS[law].sentence, found, count - len(found))


def _finding(
    history: History, stories: Stories, struck: Sequence[Strike], violation: Violation
) -> Finding:
    at = _last_instant(history, violation)
    task = history.tasks.get(violation.task_id) if violation.task_id else None
    actors = dict.fromkeys(
        history.actor(record.actor) for record in violation.evidence if isinstance(record, Event)
    )
    lines = (
        stories.of(violation.task_id, violation.evidence)
        if violation.task_id
        else _told(history, violation.evidence)
    )
    return Finding(
        law=violation.invariant,
        task_id=violation.task_id,
        key=task.key if task else None,
        message=violation.message,
        at=at,
        exact=at is not None and violation.invariant.startswith("S"),
        during="" if at is None else during(struck, at),
        actors=tuple(actors),
        piece=tuple(shortened(lines)),
        asides=tuple(
            words(history, record)
            for record in violation.evidence
            if moment(history, record) is None
        ),
    )


def during(struck: Sequence[Strike], at: float) -> str:
    """The faults of that second in words; else the last one before it; empty: none yet."""
    active = [strike for strike in struck if strike.covers(at)]
    if active:
        told = (f"{s.fault_id} ({s.fault} on {', '.join(s.targets)})" for s in active)
        return f"during {', '.join(told)}"
    before = [strike for strike in struck if strike.end is not None and strike.end < at]
    if not before:
        return ""
    last = max(before, key=lambda strike: strike.end or 0.0)
    where = f"{last.fault_id} ({last.fault} on {', '.join(last.targets)})"
    return f"{at - (last.end or 0.0):.3f} s after {where} ended"


def _last_instant(history: History, violation: Violation) -> float | None:
    """Of the evidence; a final read is an instant only where there is no other."""
    times = [
        at
        for record in violation.evidence
        if not isinstance(record, Task) and (at := moment(history, record)) is not None
    ]
    return max(times, default=None)


def _told(history: History, evidence: Sequence[Record]) -> list[Line]:
    timed = ((moment(history, record), record) for record in evidence)
    lines = [
        Line(at, words(history, record), marked=True, witness=witness(record))
        for at, record in timed
        if at is not None
    ]
    return sorted(lines, key=lambda line: line.at)
