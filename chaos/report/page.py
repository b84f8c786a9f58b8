"""Compute what the page of one run shows; ``html.py`` renders it."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from chaos.checker.sometimes import OCCURRENCES
from chaos.checker.verdict import Judgement
from chaos.history.records import ArenaName, Bound, PhaseStart, Record
from chaos.report.catalogue import Tag, TaskEntry, catalogue, chosen
from chaos.report.finding import ViolatedInvariant, violated_invariants
from chaos.report.injections import PlannedFault
from chaos.report.model import RunModel
from chaos.report.timeline import Timeline, duration, timeline
from chaos.report.words import Source
from chaos.scenario import scenario as scenarios

# Fill the list of tasks up to this number with ordinary ones; the interesting ones always show.
STORIES_MAX = 600
_FINDINGS_MAX = 12


@dataclass(frozen=True, slots=True)
class MeterCard:
    """A figure with its name and meaning."""

    name: str
    value: str
    about: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class TermBar:
    """A term of T with the start and length of its bar, in per cent of the widest."""

    name: str
    why: str
    seconds: float
    left: float
    wide: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """Measured recovery against T; ``wide`` is its bar in per cent, None if it did not recover."""

    seconds: float | None
    allowed: float
    wide: float | None
    steps: tuple[TermBar, ...]


@dataclass(frozen=True, slots=True)
class OccurrenceCount:
    """How often a required occurrence (``expect.sometimes``) was seen."""

    name: str
    about: str
    count: int


@dataclass(frozen=True, slots=True)
class Page:
    """The content of the page; ``data``: the input of its script, as JSON that is safe in HTML."""

    judgement: Judgement
    hypothesis: str
    headline: str
    replay: str
    seconds: float | None
    meters: tuple[MeterCard, ...]
    timeline: Timeline
    recovery: Recovery
    faults: tuple[PlannedFault, ...]
    sometimes: tuple[OccurrenceCount, ...]
    violated: tuple[ViolatedInvariant, ...]
    tags: tuple[tuple[str, int], ...]
    tasks: int
    left_out: int
    core: tuple[str, ...]
    data: str


def page(judgement: Judgement, seconds: float | None = None) -> Page:
    """Compute the page of a judged run; ``seconds``: how long the run took, if known."""
    model = RunModel(judgement)
    entries = catalogue(model)
    shown = chosen(entries, STORIES_MAX)
    drawn = timeline(model)
    violated = violated_invariants(model, _FINDINGS_MAX)
    counts = {tag: sum(tag in entry.tags for entry in entries) for tag in Tag}
    return Page(
        judgement=judgement,
        hypothesis=str(judgement.history.run.scenario.get("hypothesis", "")).strip(),
        headline=_headline(judgement, violated),
        replay=replay(judgement.scenario, judgement.seed, judgement.mutant, judgement.arena),
        seconds=seconds,
        meters=tuple(_meters(model)),
        timeline=drawn,
        recovery=_recovery(judgement),
        faults=model.planned_faults,
        sometimes=tuple(
            OccurrenceCount(name, OCCURRENCES[name].description, count)
            for name, count in judgement.sometimes.items()
        ),
        violated=violated,
        tags=tuple((tag.value, count) for tag, count in counts.items() if count),
        tasks=len(entries),
        left_out=len(entries) - len(shown),
        core=_core(model),
        data=embedded(_data(model, drawn, shown)),
    )


def replay(scenario: str, seed: int, mutant: str | None, arena: ArenaName = ArenaName.LIVE) -> str:
    """Return the command that repeats a run; scenarios that are not ours are named by file."""
    what = scenario if scenario in scenarios.names() else f"./{scenario}.yaml"
    words = ["python", "-m", "chaos", "run", what, "--seed", str(seed)]
    words += [] if arena is ArenaName.LIVE else ["--arena", arena]
    return shlex.join([*words, "--mutant", mutant] if mutant else words)


def embedded(data: Any) -> str:
    """Return JSON that is safe in a script element: it has no ``<``, ``>`` or ``&``."""
    text = orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS).decode()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _core(model: RunModel) -> tuple[str, ...]:
    """Return the healed processes; empty if all were healed."""
    healed = [r for r in model.history.records if isinstance(r, PhaseStart) and r.phase == "healed"]
    core = healed[-1].core if healed else ()
    return core if set(core) != set(model.scenario.topology.processes) else ()


def times(count: int) -> str:
    """Return "once" or "n times"."""
    return "once" if count == 1 else f"{count} times"


def _headline(judgement: Judgement, laws: tuple[ViolatedInvariant, ...]) -> str:
    if laws:
        counts = [
            f"{law.law} violated {times(len(law.findings) + law.more)}: {law.sentence}"
            if len(laws) == 1
            else f"{law.law} violated {times(len(law.findings) + law.more)}"
            for law in laws
        ]
        exact = [finding for law in laws for finding in law.findings if finding.exact]
        first = min(exact, key=lambda finding: finding.at or 0.0, default=None)
        when = f"; first at {first.at:.3f} s" if first and first.at is not None else ""
        where = f", {first.during}" if first and first.during else ""
        return f"{', '.join(counts)}{when}{where}"
    if judgement.doubts:
        count = len(judgement.doubts)
        why = "for this reason" if count == 1 else f"for {count} reasons"
        return f"No invariant is violated, but {why} the run does not prove that they hold"
    return "Every invariant held, and every planned fault and required occurrence was observed"


def _meters(model: RunModel) -> Iterator[MeterCard]:
    meters = model.judgement.meters
    p50, p95, most = (model.latency_quantile(share) for share in (0.5, 0.95, 1.0))
    recovery = "-" if meters.recovery_seconds is None else f"{meters.recovery_seconds:.1f} s"
    observed = f"{meters.faults_felt}/{meters.faults_planned}"
    weak = "weak" if meters.faults_felt < meters.faults_planned else ""
    yield MeterCard("accepted", f"{meters.accepted:,}", "tasks reported as accepted to a client")
    yield MeterCard("effects", f"{meters.effects:,}", "ledger rows")
    yield MeterCard(
        "due to effect, p95",
        "-" if p95 is None else duration(p95),
        "" if p50 is None or most is None else f"p50 {duration(p50)}, max {duration(most)}",
    )
    yield MeterCard(
        "faults observed", observed, "injections shown by evidence, of those planned", weak
    )
    yield MeterCard(
        "in flight",
        f"{meters.in_flight:,}",
        f"most open tasks at an injection, {meters.running} running",
    )
    yield MeterCard("stale writes refused", f"{meters.stale_writes_refused:,}", "by the fence")
    yield MeterCard(
        "duplicates suppressed",
        f"{meters.duplicates_suppressed:,}",
        "by the receiver, by effect key",
    )
    if meters.spans:
        missing = [f"{n} missing: {why}" for why, n in meters.excused.items()]
        yield MeterCard("spans", f"{meters.spans:,}", "; ".join(missing) or "none missing")
    late_recovery = (
        meters.recovery_seconds is None or meters.recovery_seconds > meters.allowed_seconds
    )
    about = f"from the heal until all due tasks ended; {meters.allowed_seconds:.1f} s allowed"
    yield MeterCard("recovery", recovery, about, "weak" if late_recovery else "")


def _recovery(judgement: Judgement) -> Recovery:
    bound: Bound = judgement.history.run.bound
    measured = judgement.meters.recovery_seconds
    widest = max(bound.seconds, measured or 0.0, 1e-9)
    steps: list[TermBar] = []
    begin = 0.0
    for term in bound.terms:
        left, wide = 100 * begin / widest, 100 * term.seconds / widest
        steps.append(TermBar(term.name, term.why, term.seconds, round(left, 2), round(wide, 2)))
        begin += term.seconds
    wide_measured = None if measured is None else round(100 * measured / widest, 2)
    return Recovery(measured, bound.seconds, wide_measured, tuple(steps))


def _data(model: RunModel, drawn: Timeline, shown: list[TaskEntry]) -> dict[str, Any]:
    evidence: defaultdict[str, list[Record]] = defaultdict(list)
    for violation in model.judgement.violations:
        evidence[violation.task_id or ""] += violation.evidence
    return {
        "axis": [drawn.axis.start, drawn.axis.end],
        "curves": {
            name: [[round(at, 3), value] for at, value in curve]
            for name, curve in drawn.curves.items()
        },
        "injections": [
            [
                injection.fault_id,
                injection.fault,
                ", ".join(injection.targets),
                injection.start,
                injection.until(drawn.axis.end),
                injection.observed is not None,
            ]
            for injection in model.injections
        ],
        "phases": model.history.phases,
        "tasks": [_task(model, entry, evidence.get(entry.task_id, ())) for entry in shown],
    }


def _task(model: RunModel, entry: TaskEntry, evidence: Sequence[Record]) -> dict[str, Any]:
    history = model.history
    row = history.tasks.get(entry.task_id)
    return {
        "id": entry.task_id,
        "key": entry.key,
        "name": entry.name,
        "state": entry.state,
        "tags": entry.tags,
        "laws": entry.laws,
        "attempts": entry.attempts,
        "losses": entry.losses,
        "stale": entry.stale_writes,
        "due": None if entry.due is None else round(entry.due, 3),
        "late": None if entry.late is None else round(entry.late, 4),
        "payload": row.payload if row else None,
        # [second, source, text, evidence?]; the page adds the faults itself.
        "lines": [
            [round(line.at, 4), line.source, line.text, int(line.marked)]
            for line in model.stories.of(entry.task_id, evidence)
            if line.source is not Source.FAULT or line.marked
        ],
        "stays": [
            [
                stay.place,
                round(stay.start, 4),
                None if stay.end is None else round(stay.end, 4),
                who,
            ]
            for stay in model.stays.get(entry.task_id, ())
            for who in [history.actor(stay.event.actor)]
        ],
        "ops": [
            [
                op.invoke.process,
                op.invoke.op,
                op.type,
                round(op.invoke.at, 4),
                round(op.completion.at, 4) if op.completion else None,
            ]
            for op in model.stories.operations(entry.task_id)
        ],
    }
