"""Run and judge one schedule of the crash sweep; keep its history unless it is true."""

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
    """How to run a schedule. ``story``: list every event; ``keep``: keep true histories too."""

    seed: int
    runs: Path
    mutant: str | None = None
    keep: bool = False
    story: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of a schedule. ``idle``: no task was in flight at any fault.

    ``lines``: the explanation, unless it is true. ``points``: the messages between the last fault
    (else the start) and the heal. ``late``: the number of messages after the heal.
    """

    schedule: str
    verdict: str
    seconds: float
    idle: bool = False
    lines: tuple[str, ...] = ()
    points: tuple[MessagePoint, ...] = ()
    late: int = 0


def names() -> tuple[str, ...]:
    """Return the names of the scopes, the smallest first."""
    return tuple(sorted(path.stem for path in SCOPES.glob("*.yaml")))


@functools.cache
def scope(name: str) -> Scenario:
    """Return the scenario of a scope, which plans no faults.

    Raises:
        ScenarioError: the scope does not exist.
    """
    if name not in names():
        raise ScenarioError(f"no scope {name!r}{did_you_mean(name, names())}")
    return scenarios.load(SCOPES / f"{name}.yaml")


def sweep_job(servers: SharedServers, job: dict[str, Any]) -> dict[str, Any]:
    """Run a job of the sweep in a worker process.

    ``job``: ``schedules`` (texts) or ``undisturbed`` (a scope to run without faults), the fields of
    ``Trial``, and ``points``: whether the answer includes them.
    """
    wanted = job.pop("points", False)
    undisturbed = job.pop("undisturbed", None)
    schedules = [Schedule.parse(text) for text in job.pop("schedules", [])]
    if undisturbed is not None:
        schedules = [Schedule(undisturbed, ())]
    trial = Trial(**job | {"runs": Path(job["runs"])})
    verdicts = [run_schedule(schedule, trial, servers) for schedule in schedules]
    if not wanted:
        verdicts = [replace(verdict, points=()) for verdict in verdicts]
    return {"verdicts": [asdict(verdict) for verdict in verdicts]}


def run_schedule(schedule: Schedule, trial: Trial, servers: SharedServers) -> Verdict:
    """Run a schedule and judge it."""
    injector = MessageFaultInjector(schedule.faults)
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
        ran = simulate(spec, servers, options)
    except RunFailed as error:
        place = f"recorded in: {trial.runs / (error.outcome.directory or '')}"
        lines = ("the harness failed:", *error.reasons, place)
        return Verdict(str(schedule), "unknown", error.outcome.seconds or 0.0, lines=lines)
    return _verdict(schedule, trial, injector, ran)


def _verdict(
    schedule: Schedule, trial: Trial, injector: MessageFaultInjector, ran: SimulatedRun
) -> Verdict:
    history = ran.judgement.history
    zero = parse_instant(history.run.database_epoch).timestamp() - EPOCH
    healed = zero + history.phases["healed"]
    doubts = [*_doubts(schedule.faults, injector.injected, healed)]
    flights = [_in_flight(history, injected.at - zero) for injected in injector.injected]
    last = max((injected.at for injected in injector.injected), default=-1.0)
    good = ran.judgement.verdict == "true" and not doubts
    lines: list[str] = []
    if not good or trial.keep or trial.story:
        lines = [*doubts, *_keep(ran, trial, injector.injected, flights, zero)]
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
    came = {each.fault: each for each in injected}
    for fault in planned:
        if fault not in came:
            yield f"  unknown: never injected: {fault}"
        elif not came[fault].observed:
            yield f"  unknown: its victim was not running: {fault}"
        elif came[fault].at > healed:
            yield f"  unknown: injected after the heal: {fault}"


def _in_flight(history: History, second: float) -> InFlight:
    """Count the tasks that were open and running at that arena second."""
    states = [
        [event.to_state for event in events if history.seconds(event.at) <= second]
        for events in history.events.values()
    ]
    now = [before[-1] for before in states if before]
    return InFlight(
        open=sum(state not in TERMINAL for state in now),
        running=sum(state == State.RUNNING for state in now),
    )


def _keep(
    ran: SimulatedRun,
    trial: Trial,
    injected: list[InjectedMessageFault],
    flights: list[InFlight],
    zero: float,
) -> Iterator[str]:
    """Write the history with the faults in it; yield the verdict and the stories of violations."""
    history = ran.judgement.history
    document = history.run.scenario | {
        "faults": [
            each.fault.scenario_fault | {"at": max(0.0, each.at - zero)} for each in injected
        ]
    }
    scenario = Scenario.model_validate(document)
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
    """Yield the records of a fault. It starts and ends at one instant: it has no duration."""
    planned = injected.fault.scenario_fault
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
