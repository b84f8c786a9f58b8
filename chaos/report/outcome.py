"""The outcome of one run, as ``summary.json`` stores it; read back without the history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from chaos.checker.verdict import Judgement, RunMeters
from chaos.history.records import ArenaName

Verdict = Literal["true", "false", "unknown"]
# An outcome keeps the first violations only; the run's own files have all of them.
_VIOLATIONS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedViolation:
    """A violation without its evidence."""

    invariant: str
    task_id: str | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a run; ``meters`` is None if the harness failed before the run was judged.

    ``directory``: its name in the run store. ``expected``: ``false`` where a planted mutant must be
    caught. ``laws``: how often each invariant was violated; ``violations``: the first violations.
    """

    scenario: str
    seed: int
    verdict: Verdict
    arena: ArenaName = ArenaName.LIVE
    mutant: str | None = None
    commit: str | None = None
    seconds: float | None = None
    directory: str | None = None
    meters: RunMeters | None = None
    doubts: tuple[str, ...] = ()
    laws: dict[str, int] | None = None
    violations: tuple[ReportedViolation, ...] = ()
    expected: Literal["true", "false"] = "true"

    @property
    def as_expected(self) -> bool:
        return self.verdict == self.expected


_ADAPTER: TypeAdapter[Outcome] = TypeAdapter(Outcome)


def parse(document: Any) -> Outcome:
    """Parse a run of a ``summary.json``; keys that only the run itself needs are ignored.

    Raises:
        ValidationError: the document is not an outcome.
    """
    return _ADAPTER.validate_python(document)


def worst(verdicts: set[str]) -> Verdict:
    """Return false if one verdict is, else unknown if one is; unknown if there is none."""
    if "false" in verdicts:
        return "false"
    return "true" if verdicts == {"true"} else "unknown"


def outcome(
    judgement: Judgement, *, seconds: float | None = None, directory: str | None = None
) -> Outcome:
    """Return the outcome of a judged run."""
    laws: dict[str, int] = {}
    for violation in judgement.violations:
        laws[violation.invariant] = laws.get(violation.invariant, 0) + 1
    return Outcome(
        scenario=judgement.scenario,
        seed=judgement.seed,
        verdict=judgement.verdict,
        arena=judgement.arena,
        mutant=judgement.mutant,
        commit=judgement.history.run.commit,
        seconds=seconds,
        directory=directory,
        meters=judgement.meters,
        doubts=judgement.doubts,
        laws=laws,
        violations=tuple(
            ReportedViolation(invariant=v.invariant, task_id=v.task_id, message=v.message)
            for v in judgement.violations[:_VIOLATIONS_MAX]
        ),
    )
