"""One seed of one scenario in virtual time: set the stage, go through the course, judge."""

from __future__ import annotations

import gc
import io
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path

from chaos import bounds, filing, forwarding
from chaos.course import ArenaClock, Course, Plan
from chaos.history import History, HistoryWriter
from chaos.records import Record, encode
from chaos.report import files
from chaos.report.outcome import Outcome, outcome
from chaos.runs import RunStore
from chaos.scenario import Scenario
from chaos.simulation.kernel import caches
from chaos.simulation.kernel.dice import Branch
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.trace import Entry
from chaos.simulation.network.fabric import Message, Network
from chaos.simulation.postgres import PostgresNode, Statement
from chaos.simulation.stage.apps import longest_backoff
from chaos.simulation.stage.foundation import Foundation
from chaos.simulation.stage.stage import SINK_PORT, Stage
from chaos.simulation.suite.coverage import Coverage
from chaos.simulation.valkey import ValkeyNode
from chaos.tasks.external import SINK_URL
from chaos.verdict import Judgement, judge
from chaos.vocabulary import SOMETIMES
from chaos.witnesses import seen

_HELD_SHARE = 0.1
# Of virtual time, beyond load and bound: whoever is not done by then never will be.
_SPARE_SECONDS = 300.0
# Whose output is their own affair; the rest of the nodes are the harness's and print nothing.
_ROLES = ("api", "scheduler", "worker")
_COMPLAINTS_SHOWN = 20


class Unsound(Exception):
    """A simulated process did what cannot be simulated, or the harness itself went wrong."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to simulate. ``runs``: where what is kept goes; a run that is true is kept with ``keep``
    only. ``apps``: modules of handlers beside the workload's. ``story``: keep every event of the
    trace. ``held_share``: of the single statements, those whose COMMIT is held back so that others
    overlap them. ``tap`` sees every message before it is delivered (``Network.tap``). ``on_stage``
    is given the stage before anything of it is started.
    ``branch``: from there on chance takes another course than the seed's.
    """

    scenario: Scenario
    seed: int
    runs: Path
    keep: bool = False
    mutant: str | None = None
    drain_seconds: float | None = None
    apps: tuple[str, ...] = ()
    story: bool = False
    held_share: float = _HELD_SHARE
    tap: Callable[[Message], bool] | None = None
    on_stage: Callable[[Stage], None] | None = None
    branch: Branch | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """A simulated run. ``digest``: of every step, wire byte and result, and of the history.
    ``virtual_seconds`` passed inside, ``seconds`` outside. ``directory``: of what was kept.
    """

    judgement: Judgement
    outcome: Outcome
    digest: str
    virtual_seconds: float
    seconds: float
    coverage: Coverage
    directory: Path | None = None
    entries: list[Entry] = field(default_factory=list)


def simulate(order: Order, foundation: Foundation) -> Ran:
    """Run one seed and judge it.

    Raises:
        RunFailed: the harness could not bring it to its end; what there was of it is kept.
    """
    started = time.monotonic()
    execution = _Execution(order, foundation)
    try:
        with _without_gc():
            execution.run()
        judgement = judge(History(execution.records))
        coverage = Coverage.of(judgement.history, execution.statements, execution.zero)
        coverage.sometimes.update(n for n in SOMETIMES if seen(judgement.history, n))
    except Exception as error:
        took = time.monotonic() - started
        raise filing.failure(
            order.scenario, order.seed, order.mutant, execution.keep(), error, took, "simulation"
        ) from error
    else:
        seconds = time.monotonic() - started
        directory: Path | None = None
        if order.keep or judgement.verdict != "true":
            directory = execution.keep()
            filing.report(directory, judgement, seconds)
        return Ran(
            judgement=judgement,
            outcome=outcome(
                judgement, seconds=seconds, directory=directory.name if directory else None
            ),
            digest=execution.digest,
            virtual_seconds=execution.virtual_seconds,
            seconds=seconds,
            coverage=coverage,
            directory=directory,
            entries=execution.entries,
        )
    finally:
        execution.close()


class _Execution:
    """One run; everything its parts share."""

    def __init__(self, order: Order, foundation: Foundation) -> None:
        self._order = order
        self._scenario = order.scenario.drawn(order.seed)
        self._foundation = foundation
        self._scratch = Path(tempfile.mkdtemp(prefix="run-", dir=foundation.directory))
        attempts = self._scenario.workload.max_attempts
        self._bound = bounds.allowed(self._scenario, longest_backoff(order.apps, attempts))
        self.records: list[Record] = []
        self.statements: list[Statement] = []
        self.zero = 0.0
        self.digest = ""
        self.virtual_seconds = 0.0
        self.entries: list[Entry] = []

    def run(self) -> None:
        """Fills ``records``."""
        order, scenario = self._order, self._scenario
        loop = SimulationLoop(order.seed, keep_trace=order.story, branch=order.branch)
        network = Network(loop)
        network.tap = order.tap
        shared = self._foundation
        postgres = PostgresNode(shared.postgres, loop, network, order.held_share)
        valkey = ValkeyNode(shared.valkey, loop, network)
        os.environ[SINK_URL] = f"http://{network.host('sink')}:{SINK_PORT}"
        os.environ["PGSSLMODE"] = "disable"  # there is no TLS: nobody need prepare for it
        postgres.listeners.append(self.statements.append)
        exports: list[bytes] = []
        stage_options = (scenario, order.seed, loop, network, postgres, valkey, self._scratch)

        async def course() -> None:
            clock = ArenaClock()
            stage = Stage(*stage_options, apps=order.apps)
            if order.on_stage is not None:
                order.on_stage(stage)
            await stage.up()
            play = Course(self._plan(), stage, clock, self.records.append)
            await play.run()
            await play.collect()
            exports.extend(play.exports)
            self.zero = loop.time() - clock.now()
            await stage.witness.close()

        workload = scenario.workload
        longest = workload.last_due_seconds + self._bound.seconds + _SPARE_SECONDS
        try:
            loop.run(course, max_seconds=longest)
            _require_sound(loop)
        finally:
            self.virtual_seconds = loop.time()
            self.entries = loop.trace.entries
            postgres.close()
            valkey.close()
            loop.bury()
            network.close()
        forwarding.forward(exports)
        for record in self.records:
            loop.trace.note("node", "history", "", encode(record))
        self.digest = loop.trace.digest

    def keep(self) -> Path:
        """Move the history and the logs to the run store."""
        order = self._order
        store = RunStore(order.runs)
        directory = store.new_run(order.scenario.id, order.seed, order.mutant)
        with HistoryWriter(directory / files.HISTORY) as writer:
            writer.write(*self.records)
        if (self._scratch / "logs").exists():
            shutil.move(self._scratch / "logs", directory / "logs")
        store.point_latest(directory)
        return directory

    def close(self) -> None:
        """Remove what is left of it."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _plan(self) -> Plan:
        order = self._order
        return Plan(
            arena="simulation",
            scenario=self._scenario,
            seed=order.seed,
            bound=self._bound,
            commit=self._foundation.commit,
            mutant=order.mutant,
            drain_seconds=order.drain_seconds,
        )


def _require_sound(loop: SimulationLoop) -> None:
    """Raises Unsound where something was not simulated, or where the harness itself complained."""
    complaints = [
        f"{node.name}: {line}"
        for node in loop.nodes
        if node.name.partition("-")[0] not in _ROLES
        for line in node.output
    ]
    if loop.refused or complaints:
        raise Unsound("\n".join([*dict.fromkeys(loop.refused), *complaints[:_COMPLAINTS_SHOWN]]))


@contextmanager
def _without_gc() -> Iterator[None]:
    """When the collector runs depends on addresses and counts of the whole process: not now.

    What it finds afterwards belonged to processes that were killed: nobody hears their complaints.
    What was there before (100,000 objects of modules) it need not look at.
    """
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            caches.forget()
            gc.collect()
        gc.unfreeze()
        gc.enable()
