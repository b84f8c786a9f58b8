"""Compute the verdict of a run from its history alone: false > unknown > true.

false: an invariant is violated. unknown: no invariant is violated, but the run does not prove that
they hold (``chaos.checker.doubts``), or a check crashed. true: every invariant held and was tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from chaos.checker.answer_shapes import well_formed
from chaos.checker.doubts import accepted, doubts_of
from chaos.checker.invariants.declaration import Check
from chaos.checker.invariants.liveness import allowed_seconds, recovery_seconds, undecided
from chaos.checker.invariants.registry import INVARIANTS
from chaos.checker.invariants.traces import TraceFindings, examine
from chaos.checker.invariants.violation import Violation
from chaos.checker.sometimes import count_occurrences
from chaos.history import history as histories
from chaos.history.history import History, HistoryError
from chaos.history.records import ArenaName
from chaos.scenario.scenario import Scenario
from chaos.scenario.validation_errors import explain


@dataclass(frozen=True, slots=True)
class RunMeters:
    """The figures of a run.

    ``recovery_seconds`` is None if some due task never ended or there was no heal. ``spans`` counts
    all recorded spans; ``excused`` counts the missing spans that S13 exempts, by reason. Both are
    empty where S13 is not judged.
    """

    accepted: int
    effects: int
    duplicates_suppressed: int
    stale_writes_refused: int
    faults_felt: int
    faults_planned: int
    in_flight: int
    running: int
    recovery_seconds: float | None
    allowed_seconds: float
    spans: int = 0
    excused: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a run proved: ``violations`` make it false, ``doubts`` (one line each) unknown.

    ``sometimes`` counts how often each required occurrence was seen.
    """

    verdict: Literal["true", "false", "unknown"]
    scenario: str
    seed: int
    arena: ArenaName
    mutant: str | None
    meters: RunMeters
    violations: tuple[Violation, ...]
    doubts: tuple[str, ...]
    sometimes: dict[str, int]
    history: History = field(repr=False, compare=False)


def check_file(path: Path) -> Judgement:
    """Judge the history in a file.

    Raises:
        HistoryError: the file is not a valid history.
        OSError: the file cannot be opened.
    """
    return judge(histories.load(path))


def judge(history: History, checks: Mapping[str, Check] = INVARIANTS) -> Judgement:
    """Judge a history by the expectations of the scenario in its run record.

    Raises:
        HistoryError: the run record has no usable scenario.
    """
    scenario = _scenario(history)
    recorded = history
    history, violations, doubts = well_formed(recorded)
    if not history.unready:  # such a run ends early, which is no fault of the harness
        doubts += doubts_of(history, scenario, recorded)
    traced = TraceFindings()
    if "drained" in history.phases:  # without the final reads every accepted task would look lost
        for name in (*scenario.expect.always, *scenario.expect.eventually):
            found, crash = _check(name, checks[name], history)
            violations += found
            doubts += crash
            if name == "S13" and not crash:
                traced = history.view(examine)
                doubts += _untraced(traced)
        doubts += undecided(history) if "L1" in scenario.expect.eventually else []
    return Judgement(
        verdict="false" if violations else "unknown" if doubts else "true",
        scenario=scenario.id,
        seed=history.run.seed,
        arena=history.run.arena,
        mutant=history.run.mutant,
        meters=_meters(history, scenario, traced),
        violations=tuple(violations),
        doubts=tuple(" ".join(doubt.split()) for doubt in doubts),
        sometimes={name: count_occurrences(history, name) for name in scenario.expect.sometimes},
        history=history,
    )


def _scenario(history: History) -> Scenario:
    try:
        return Scenario.model_validate(history.run.scenario)
    except ValidationError as error:
        line = explain(error, Scenario)[0]
        raise HistoryError(f"the scenario in the run record: {line}") from None


def _check(name: str, check: Check, history: History) -> tuple[list[Violation], list[str]]:
    try:
        return check(history), []
    except Exception as error:  # noqa: BLE001 - a check that crashed proves nothing
        return [], [f"{name} crashed: {type(error).__name__}: {error}"]


def _untraced(traced: TraceFindings) -> list[str]:
    return [] if traced.sampled else ["S13 had nothing to judge: no task was sampled"]


def _meters(history: History, scenario: Scenario, traced: TraceFindings) -> RunMeters:
    planned = {fault_id for plan in scenario.faults for fault_id in plan.fault_ids}
    observed = {
        fault_id
        for fault_id, records in history.faults.items()
        if any(record.type == "felt" for record in records)
    }
    flights = [
        record.in_flight
        for records in history.faults.values()
        for record in records
        if record.in_flight is not None
    ]
    return RunMeters(
        accepted=accepted(history),
        effects=sum(len(rows) for rows in history.effects.values()),
        duplicates_suppressed=count_occurrences(history, "duplicate_suppressed"),
        stale_writes_refused=count_occurrences(history, "stale_write_refused"),
        faults_felt=len(observed & planned),
        faults_planned=len(planned),
        in_flight=max((flight.open for flight in flights), default=0),
        running=max((flight.running for flight in flights), default=0),
        recovery_seconds=recovery_seconds(history) if "drained" in history.phases else None,
        allowed_seconds=allowed_seconds(history, "L1"),
        spans=traced.spans,
        excused=dict(traced.excused),
    )
