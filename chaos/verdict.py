"""The verdict of a run, from its history alone: false > unknown > true.

false: an invariant is violated. unknown: nothing is, but the run does not prove it, since a planned
fault never took hold, nothing was in flight, something required was never seen, too little was
accepted, an invariant crashed, or the history is incomplete. true: everything held and was tried.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from chaos import history as histories
from chaos.explain import explain
from chaos.history import History, HistoryError
from chaos.invariants.liveness import allowed_seconds, recovery_seconds, undecided
from chaos.invariants.registry import CHECKS, Invariant
from chaos.invariants.traces import Findings, examine
from chaos.invariants.violation import Violation
from chaos.plan import FaultSpec
from chaos.records import ArenaName
from chaos.scenario import Scenario
from chaos.witnesses import seen


@dataclass(frozen=True, slots=True)
class Meters:
    """The figures of a run. ``recovery_seconds`` None: not everything due was done, or no heal.

    ``spans``: of the sampled tasks' traces and all others; ``excused``: how many that S13 expects
    are missing for a good reason, by reason. Both are empty where S13 is not judged.
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
    """What a run proved. ``violations`` make it false, ``doubts`` (sentences) unknown.

    ``sometimes``: how often each required thing was seen.
    """

    verdict: Literal["true", "false", "unknown"]
    scenario: str
    seed: int
    arena: ArenaName
    mutant: str | None
    meters: Meters
    violations: tuple[Violation, ...]
    doubts: tuple[str, ...]
    sometimes: dict[str, int]
    history: History = field(repr=False, compare=False)


def check_file(path: Path) -> Judgement:
    """Judges the history in a file.

    Raises:
        HistoryError: it cannot be read.
        OSError: it cannot be opened.
    """
    return judge(histories.load(path))


def judge(history: History, checks: Mapping[str, Invariant] = CHECKS) -> Judgement:
    """Judges a history by the expectations of the scenario in its run record.

    Raises:
        HistoryError: the run record has no usable scenario.
    """
    scenario = _scenario(history)
    violations: list[Violation] = []
    doubts = list(_doubts(history, scenario))
    # Without the final reads every accepted task would look lost.
    traced = _traced(history, scenario)
    if "drained" in history.phases:
        for name in (*scenario.expect.always, *scenario.expect.eventually):
            found, crash = _check(name, checks[name], history)
            violations += found
            doubts += crash
        if traced is not None and not traced.sampled:
            doubts.append("S13 had nothing to judge: no task was sampled")
        doubts += undecided(history) if "L1" in scenario.expect.eventually else []
    return Judgement(
        verdict="false" if violations else "unknown" if doubts else "true",
        scenario=scenario.id,
        seed=history.run.seed,
        arena=history.run.arena,
        mutant=history.run.mutant,
        meters=_meters(history, scenario, traced or Findings()),
        violations=tuple(violations),
        doubts=tuple(doubts),
        sometimes={name: seen(history, name) for name in scenario.expect.sometimes},
        history=history,
    )


def _scenario(history: History) -> Scenario:
    try:
        return Scenario.model_validate(history.run.scenario)
    except ValidationError as error:
        line = explain(error, Scenario)[0]
        raise HistoryError(f"the scenario in the run record: {line}") from None


def _check(name: str, check: Invariant, history: History) -> tuple[list[Violation], list[str]]:
    try:
        return check(history), []
    except Exception as error:  # noqa: BLE001 - a checker that crashed has proved nothing
        return [], [f"{name} crashed: {type(error).__name__}: {error}"]


def _traced(history: History, scenario: Scenario) -> Findings | None:
    """What S13 saw beyond its violations; None: it is not judged, or it crashed."""
    if "S13" not in scenario.expect.always or "drained" not in history.phases:
        return None
    with contextlib.suppress(Exception):
        return examine(history)
    return None


def _doubts(history: History, scenario: Scenario) -> Iterator[str]:
    for phase in ("faults", "healed", "drained"):
        if phase not in history.phases:
            yield f"the history is incomplete: it has no phase {phase}"
    accepted, least = _accepted(history), scenario.workload.least_accepted
    if accepted < least:
        yield f"only {accepted} submits were accepted, at least {least} are needed"
    for plan in scenario.faults:
        yield from _fault_doubts(history, plan)
    planned = {strike for plan in scenario.faults for strike in plan.fault_ids}
    for fault_id in sorted(history.faults.keys() - planned):
        yield f"fault {fault_id} struck, but the scenario does not plan it"
    for name in scenario.expect.sometimes:
        if not seen(history, name):
            yield f"{name} was never seen"


def _fault_doubts(history: History, plan: FaultSpec) -> Iterator[str]:
    open_tasks = 0
    for strike in plan.fault_ids:
        records = {record.type: record for record in history.faults.get(strike, ())}
        start, end = records.get("start"), records.get("end")
        if start is None:
            yield f"fault {strike} never struck"
            continue
        if "felt" not in records:
            yield f"fault {strike} struck, but was not felt"
        if end is not None and end.at > history.phases.get("healed", end.at):
            yield f"fault {strike} ended after the heal"
        open_tasks = max(open_tasks, start.in_flight.open if start.in_flight else 0)
    if any(strike in history.faults for strike in plan.fault_ids) and not open_tasks:
        yield f"fault {plan.name} struck while no task was in flight"


def _accepted(history: History) -> int:
    """Tasks that some client was told are accepted."""
    ids = {s.value.get("task_id") for s in history.of("submit") if s.type == "ok"}
    return len(ids - {None})


def _meters(history: History, scenario: Scenario, traced: Findings) -> Meters:
    planned = {strike for plan in scenario.faults for strike in plan.fault_ids}
    felt = {
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
    return Meters(
        accepted=_accepted(history),
        effects=sum(len(rows) for rows in history.effects.values()),
        duplicates_suppressed=seen(history, "duplicate_suppressed"),
        stale_writes_refused=seen(history, "stale_write_refused"),
        faults_felt=len(felt & planned),
        faults_planned=len(planned),
        in_flight=max((flight.open for flight in flights), default=0),
        running=max((flight.running for flight in flights), default=0),
        recovery_seconds=recovery_seconds(history) if "drained" in history.phases else None,
        allowed_seconds=allowed_seconds(history, "L1"),
        spans=traced.spans,
        excused=dict(traced.excused),
    )
