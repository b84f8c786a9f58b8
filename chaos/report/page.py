"""What the page of one run shows, computed from its judgement; rendering is ``html.py``'s."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from chaos import scenario as scenarios
from chaos.records import Bound, Phase, Record
from chaos.report import curves
from chaos.report.catalogue import Entry, Tag, catalogue, chosen
from chaos.report.finding import Broken, broken
from chaos.report.story import Stories
from chaos.report.strikes import Planned, planned, strikes
from chaos.report.timeline import Timeline, duration, timeline
from chaos.report.words import Witness
from chaos.scenario import Scenario
from chaos.verdict import Judgement
from chaos.witnesses import OCCURRENCES

# Tasks that are drawn although nothing happened to them; the others are always there.
STORIES_MAX = 600
_FINDINGS_MAX = 12


@dataclass(frozen=True, slots=True)
class Meter:
    """A figure with its name and what it means."""

    name: str
    value: str
    about: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A term of T: where it begins and how long it is, in per cent of the widest."""

    name: str
    why: str
    seconds: float
    left: float
    wide: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """Measured against allowed; ``wide``: the measured, in per cent; None: it did not recover."""

    seconds: float | None
    allowed: float
    wide: float | None
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """A ``sometimes`` of the scenario."""

    name: str
    about: str
    count: int


@dataclass(frozen=True, slots=True)
class Page:
    """Everything on the page. ``data``: what its script needs, as JSON that is safe in HTML."""

    judgement: Judgement
    hypothesis: str
    headline: str
    replay: str
    seconds: float | None
    meters: tuple[Meter, ...]
    timeline: Timeline
    recovery: Recovery
    plans: tuple[Planned, ...]
    sometimes: tuple[Seen, ...]
    broken: tuple[Broken, ...]
    tags: tuple[tuple[str, int], ...]
    tasks: int
    left_out: int
    core: tuple[str, ...]
    data: str


def page(judgement: Judgement, seconds: float | None = None) -> Page:
    """The page of a judged run; ``seconds``: what the whole run took, where that is known."""
    history = judgement.history
    entries = catalogue(judgement)
    shown = chosen(entries, STORIES_MAX)
    drawn = timeline(judgement)
    laws = broken(judgement, _FINDINGS_MAX)
    counts = {tag: sum(tag in entry.tags for entry in entries) for tag in Tag}
    return Page(
        judgement=judgement,
        hypothesis=str(history.run.scenario.get("hypothesis", "")).strip(),
        headline=_headline(judgement, laws),
        replay=replay(judgement.scenario, judgement.seed, judgement.mutant, judgement.arena),
        seconds=seconds,
        meters=tuple(_meters(judgement)),
        timeline=drawn,
        recovery=_recovery(judgement),
        plans=planned(history),
        sometimes=tuple(
            Seen(name, OCCURRENCES[name].description, count)
            for name, count in judgement.sometimes.items()
        ),
        broken=laws,
        tags=tuple((tag.value, count) for tag, count in counts.items() if count),
        tasks=len(entries),
        left_out=len(entries) - len(shown),
        core=_core(judgement),
        data=embedded(_data(judgement, drawn, shown)),
    )


def replay(scenario: str, seed: int, mutant: str | None, arena: str = "live") -> str:
    """The command that runs it again; one that does not come along by its file."""
    what = scenario if scenario in scenarios.names() else f"./{scenario}.yaml"
    words = ["python", "-m", "chaos", "run", what, "--seed", str(seed)]
    words += [] if arena == "live" else ["--arena", arena]
    return shlex.join([*words, "--mutant", mutant] if mutant else words)


def embedded(data: Any) -> str:
    """JSON that may stand in a script element: it has no ``<``, ``>`` or ``&``."""
    text = orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS).decode()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _core(judgement: Judgement) -> tuple[str, ...]:
    """The processes that were healed, where not all were."""
    healed = [r for r in judgement.history.records if isinstance(r, Phase) and r.phase == "healed"]
    core = healed[-1].core if healed else ()
    everybody = Scenario.model_validate(judgement.history.run.scenario).topology.processes
    return core if set(core) != set(everybody) else ()


def times(count: int) -> str:
    """Once, or so many times."""
    return "once" if count == 1 else f"{count} times"


def _headline(judgement: Judgement, laws: tuple[Broken, ...]) -> str:
    if laws:
        told = [
            f"{law.law} violated {times(len(law.findings) + law.more)}: {law.sentence}"
            if len(laws) == 1
            else f"{law.law} violated {times(len(law.findings) + law.more)}"
            for law in laws
        ]
        exact = [finding for law in laws for finding in law.findings if finding.exact]
        first = min(exact, key=lambda finding: finding.at or 0.0, default=None)
        when = f"; first at {first.at:.3f} s" if first and first.at is not None else ""
        where = f", {first.during}" if first and first.during else ""
        return f"{', '.join(told)}{when}{where}"
    if judgement.doubts:
        count = len(judgement.doubts)
        why = "this says" if count == 1 else f"{count} reasons say"
        return f"Nothing was violated, but {why} that the run does not prove it"
    return "Every invariant held, every planned fault was felt, and everything required was seen"


def _meters(judgement: Judgement) -> Iterator[Meter]:
    meters = judgement.meters
    late = [latency.seconds for latency in curves.latencies(judgement.history)]
    p50, p95, most = (curves.quantile(late, share) for share in (0.5, 0.95, 1.0))
    recovery = "-" if meters.recovery_seconds is None else f"{meters.recovery_seconds:.1f} s"
    felt = f"{meters.faults_felt}/{meters.faults_planned}"
    weak = "weak" if meters.faults_felt < meters.faults_planned else ""
    yield Meter("accepted", f"{meters.accepted:,}", "tasks that a client was told are accepted")
    yield Meter("effects", f"{meters.effects:,}", "rows of the ledger")
    yield Meter(
        "due to effect, p95",
        "-" if p95 is None else duration(p95),
        "" if p50 is None or most is None else f"p50 {duration(p50)}, max {duration(most)}",
    )
    yield Meter("faults felt", felt, "strikes shown by evidence, of those planned", weak)
    yield Meter(
        "in flight",
        f"{meters.in_flight:,}",
        f"most tasks open at a strike, {meters.running} running",
    )
    yield Meter("stale writes refused", f"{meters.stale_writes_refused:,}", "by the fence")
    yield Meter(
        "duplicates suppressed",
        f"{meters.duplicates_suppressed:,}",
        "by the receiver, on the effect key",
    )
    if meters.spans:
        missing = [f"{n} missing: {why}" for why, n in meters.excused.items()]
        yield Meter("spans", f"{meters.spans:,}", "; ".join(missing) or "none that S13 misses")
    late_recovery = (
        meters.recovery_seconds is None or meters.recovery_seconds > meters.allowed_seconds
    )
    about = f"from the heal until all due was done; {meters.allowed_seconds:.1f} s allowed"
    yield Meter("recovery", recovery, about, "weak" if late_recovery else "")


def _recovery(judgement: Judgement) -> Recovery:
    bound: Bound = judgement.history.run.bound
    measured = judgement.meters.recovery_seconds
    widest = max(bound.seconds, measured or 0.0, 1e-9)
    steps: list[Step] = []
    begin = 0.0
    for term in bound.terms:
        left, wide = 100 * begin / widest, 100 * term.seconds / widest
        steps.append(Step(term.name, term.why, term.seconds, round(left, 2), round(wide, 2)))
        begin += term.seconds
    wide_measured = None if measured is None else round(100 * measured / widest, 2)
    return Recovery(measured, bound.seconds, wide_measured, tuple(steps))


def _data(judgement: Judgement, drawn: Timeline, shown: list[Entry]) -> dict[str, Any]:
    history = judgement.history
    stories = Stories(history)
    evidence: defaultdict[str, list[Record]] = defaultdict(list)
    for violation in judgement.violations:
        evidence[violation.task_id or ""] += violation.evidence
    return {
        "axis": [drawn.axis.start, drawn.axis.end],
        "curves": {
            name: [[round(at, 3), value] for at, value in curve]
            for name, curve in drawn.curves.items()
        },
        "strikes": [
            [
                strike.fault_id,
                strike.fault,
                ", ".join(strike.targets),
                strike.start,
                strike.until(drawn.axis.end),
                strike.felt is not None,
            ]
            for strike in strikes(history)
        ],
        "phases": history.phases,
        "tasks": [
            _task(judgement, stories, entry, evidence.get(entry.task_id, ())) for entry in shown
        ],
    }


def _task(
    judgement: Judgement, stories: Stories, entry: Entry, evidence: Sequence[Record]
) -> dict[str, Any]:
    history = judgement.history
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
        # [second, witness, text, evidence?]; the page adds the faults itself.
        "lines": [
            [round(line.at, 4), line.witness, line.text, int(line.marked)]
            for line in stories.of(entry.task_id, evidence)
            if line.witness is not Witness.FAULT or line.marked
        ],
        "stays": [
            [
                stay.place,
                round(stay.start, 4),
                None if stay.end is None else round(stay.end, 4),
                who,
            ]
            for stay in curves.stays(history, entry.task_id)
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
            for op in stories.operations(entry.task_id)
        ],
    }
