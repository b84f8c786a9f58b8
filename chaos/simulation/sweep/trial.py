"""One schedule of the crash sweep: run it, judge it, and keep its history if it is not true."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from chaos.checker.verdict import judge
from chaos.history.history import History, HistoryWriter
from chaos.history.records import ArenaName, Fault, InFlight, Record, parse_instant
from chaos.report import files, terminal
from chaos.run.artifacts import RunFailed
from chaos.run.spec import RunSpec
from chaos.run.store import RunStore
from chaos.scenario import scenario as scenarios
from chaos.scenario.scenario import Scenario, ScenarioError
from chaos.scenario.validation_errors import did_you_mean
from chaos.simulation.environment.shared_servers import SharedServers
from chaos.simulation.kernel.node import EPOCH
from chaos.simulation.run import SimulatedRun, SimulationOptions, simulate
from chaos.simulation.sweep.message_faults import (
    InjectedMessageFault,
    MessageFault,
    MessageFaultInjector,
    MessagePoint,
    Schedule,
)
from holdfast.model.lifecycle import TERMINAL, State

SCOPES = Path(__file__).parent / "scopes"


@dataclass(frozen=True, slots=True)
class Trial:
    """What a schedule is run with. ``story``: tell every event. ``keep``: its history, if true."""

    seed: int
    runs: Path
    mutant: str | None = None
    keep: bool = False
    story: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a schedule. ``idle``: at every strike no task was in flight.

    ``lines``: for people, where it is not true. ``points``: the messages until the heal that came
    after the last strike (of an undisturbed run: all), and ``late``: how many came after the heal.
    """

    schedule: str
    verdict: str
    seconds: float
    idle: bool = False
    lines: tuple[str, ...] = ()
    points: tuple[MessagePoint, ...] = ()
    late: int = 0


def names() -> tuple[str, ...]:
    """The scopes there are, the smallest first."""
    return tuple(sorted(path.stem for path in SCOPES.glob("*.yaml")))


@functools.cache
def scope(name: str) -> Scenario:
    """The scenario of a scope; it plans no faults.

    Raises:
        ScenarioError: there is none.
    """
    if name not in names():
        raise ScenarioError(f"no scope {name!r}{did_you_mean(name, names())}")
    return scenarios.load(SCOPES / f"{name}.yaml")


def sweep_job(foundation: SharedServers, job: dict[str, Any]) -> dict[str, Any]:
    """``schedules`` (texts) one after the other; ``seed``, ``runs`` and what else ``Trial`` has.

    ``undisturbed``: a scope to run without any strike, instead. ``points``: tell of them.
    """
    wanted = job.pop("points", False)
    undisturbed = job.pop("undisturbed", None)
    schedules = [Schedule.parse(text) for text in job.pop("schedules", [])]
    if undisturbed is not None:
        schedules = [Schedule(undisturbed, ())]
    trial = Trial(**job | {"runs": Path(job["runs"])})
    verdicts = [tried(schedule, trial, foundation) for schedule in schedules]
    if not wanted:
        verdicts = [replace(verdict, points=()) for verdict in verdicts]
    return {"verdicts": [asdict(verdict) for verdict in verdicts]}


def tried(schedule: Schedule, trial: Trial, foundation: SharedServers) -> Verdict:
    """Run it and judge it."""
    injector = MessageFaultInjector(schedule.strikes)
    spec = RunSpec(
        ArenaName.SIMULATION,
        scope(schedule.scope),
        trial.seed,
        trial.runs,
        keep=trial.keep,
        mutant=trial.mutant,
    )
    options = SimulationOptions(
        story=trial.story,
        held_share=0.0,
        tap=injector.see,
        on_environment=injector.attach,
    )
    try:
        ran = simulate(spec, foundation, options)
    except RunFailed as error:
        place = f"what was recorded: {trial.runs / (error.outcome.directory or '')}"
        told = ("the harness failed:", *error.reasons, place)
        return Verdict(str(schedule), "unknown", error.outcome.seconds or 0.0, lines=told)
    return _verdict(schedule, trial, injector, ran)


def _verdict(
    schedule: Schedule, trial: Trial, injector: MessageFaultInjector, ran: SimulatedRun
) -> Verdict:
    history = ran.judgement.history
    zero = parse_instant(history.run.database_epoch).timestamp() - EPOCH
    healed = zero + history.phases["healed"]
    doubts = [*_doubts(schedule.strikes, injector.injected, healed)]
    flights = [_in_flight(history, injected.at - zero) for injected in injector.injected]
    last = max((injected.at for injected in injector.injected), default=-1.0)
    good = ran.judgement.verdict == "true" and not doubts
    lines: list[str] = []
    if not good or trial.keep or trial.story:
        lines = [*doubts, *_filed(ran, trial, injector.injected, flights, zero)]
        lines += [f"{e.at:10.4f}  {e.kind:<5} {e.who:<24} {e.what}" for e in ran.entries]
    verdict = "unknown" if doubts and ran.judgement.verdict == "true" else ran.judgement.verdict
    return Verdict(
        str(schedule),
        verdict,
        ran.seconds,
        idle=bool(flights) and not any(flight.open for flight in flights),
        lines=tuple(lines),
        points=tuple(point for point in injector.points if last < point.at <= healed),
        late=sum(point.at > healed for point in injector.points),
    )


def _doubts(
    planned: tuple[MessageFault, ...], injected: list[InjectedMessageFault], healed: float
) -> Iterator[str]:
    came = {each.strike: each for each in injected}
    for strike in planned:
        if strike not in came:
            yield f"  unknown: it never came to this: {strike}"
        elif not came[strike].observed:
            yield f"  unknown: there was nobody to kill: {strike}"
        elif came[strike].at > healed:
            yield f"  unknown: only after the heal: {strike}"


def _in_flight(history: History, second: float) -> InFlight:
    """Tasks not terminal, and running, at that arena second, by the log of their transitions."""
    states = [
        [event.to_state for event in events if history.seconds(event.at) <= second]
        for events in history.events.values()
    ]
    now = [before[-1] for before in states if before]
    return InFlight(
        open=sum(state not in TERMINAL for state in now),
        running=sum(state == State.RUNNING for state in now),
    )


def _filed(
    ran: SimulatedRun,
    trial: Trial,
    injected: list[InjectedMessageFault],
    flights: list[InFlight],
    zero: float,
) -> Iterator[str]:
    """Keep the history with the strikes in it; the story of what was violated."""
    history = ran.judgement.history
    told = history.run.scenario | {
        "faults": [each.strike.fault | {"at": max(0.0, each.at - zero)} for each in injected]
    }
    scenario = Scenario.model_validate(told)
    faults = [
        record
        for each, flight in zip(injected, flights, strict=True)
        for record in _records(each, flight, each.at - zero)
    ]
    records = (replace(history.run, scenario=scenario.document), *faults, *history.records[1:])
    judgement = judge(History(records))
    directory = ran.directory
    if directory is None:
        store = RunStore(trial.runs)
        directory = store.new_run(scenario.id, trial.seed, trial.mutant)
        store.point_latest(directory)
    with HistoryWriter(directory / files.HISTORY) as writer:
        writer.write(*records)
    files.write_run(directory, judgement, ran.seconds)
    yield terminal.line(judgement)
    if judgement.violations:
        yield terminal.details(judgement)
    yield f"  history: {directory}"


def _records(injected: InjectedMessageFault, flight: InFlight, at: float) -> Iterator[Record]:
    """A strike is over at once: what is gone is gone, and who starts it again is no harness."""
    planned = injected.strike.fault
    common = {
        "fault_id": f"{planned['name']}#1",
        "fault": planned["fault"],
        "targets": (planned["target"],),
        "at": round(at, 6),
    }
    yield Fault(type="start", in_flight=flight, **common)
    if injected.observed:
        yield Fault(type="felt", evidence=injected.evidence, **common)
    yield Fault(type="end", **common)
