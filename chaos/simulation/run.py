"""Run one seed of one scenario in virtual time and judge it."""

from __future__ import annotations

import gc
import io
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path

from chaos.checker import bounds
from chaos.checker.sometimes import count_occurrences
from chaos.checker.verdict import Judgement, judge
from chaos.history.history import History, HistoryWriter
from chaos.history.records import Record, Run, encode
from chaos.nemesis.process_faults import NotReady
from chaos.observers.collector import forward_exports
from chaos.report import files
from chaos.report.outcome import Outcome, outcome
from chaos.run import artifacts
from chaos.run.runner import ArenaClock, Runner
from chaos.run.spec import RunSpec
from chaos.run.store import RunStore
from chaos.scenario.vocabulary import SOMETIMES
from chaos.simulation.environment.apps import longest_backoff
from chaos.simulation.environment.environment import SINK_PORT, SimulatedEnvironment
from chaos.simulation.environment.shared_servers import SharedServers
from chaos.simulation.kernel import caches
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.rng import Branch
from chaos.simulation.kernel.trace import Entry
from chaos.simulation.network.network import Message, Network
from chaos.simulation.postgres import ExecutedStatement, PostgresNode
from chaos.simulation.suite.coverage import Coverage
from chaos.simulation.valkey import ValkeyNode
from chaos.tasks.external import SINK_URL

_HELD_SHARE = 0.1
# Virtual time beyond load and bound, after which the run counts as stuck.
_SPARE_SECONDS = 300.0
# These nodes may print; all others belong to the harness, whose output is an error.
_ROLES = ("api", "scheduler", "worker")
_COMPLAINTS_SHOWN = 20


class Unsound(Exception):
    """A simulated process did what cannot be simulated, or the harness itself failed."""


@dataclass(frozen=True, slots=True)
class SimulationOptions:
    """How to simulate a run.

    ``apps``: modules of handlers besides the workload's. ``story``: keep every event of the trace.
    ``held_share``: share of the single statements whose COMMIT is held so that others overlap
    them. ``tap`` sees every message before it is delivered (``Network.tap``). ``on_environment``
    gets the environment before any process starts. ``branch``: an instant after which random
    draws differ from the seed's.
    """

    apps: tuple[str, ...] = ()
    story: bool = False
    held_share: float = _HELD_SHARE
    tap: Callable[[Message], bool] | None = None
    on_environment: Callable[[SimulatedEnvironment], None] | None = None
    branch: Branch | None = None


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """A judged run.

    ``digest`` covers every step, wire byte and result, and the history without its commit.
    ``virtual_seconds`` passed inside, ``seconds`` outside. ``directory``: where it was kept.
    """

    judgement: Judgement
    outcome: Outcome
    digest: str
    virtual_seconds: float
    seconds: float
    coverage: Coverage
    directory: Path | None = None
    entries: list[Entry] = field(default_factory=list)


def simulate(
    spec: RunSpec, foundation: SharedServers, options: SimulationOptions | None = None
) -> SimulatedRun:
    """Run one seed and judge it. A run that is true is kept only with ``spec.keep``.

    Raises:
        RunFailed: the harness failed; what was recorded is kept.
    """
    started = time.monotonic()
    simulation = _Simulation(spec.drawn(), foundation, options or SimulationOptions())
    try:
        with _without_gc():
            simulation.run()
        judgement = judge(History(simulation.records))
        coverage = Coverage.of(judgement.history, simulation.statements, simulation.zero)
        coverage.sometimes.update(n for n in SOMETIMES if count_occurrences(judgement.history, n))
    except Exception as error:
        seconds = time.monotonic() - started
        raise artifacts.failure(spec, simulation.keep(), error, seconds) from error
    else:
        seconds = time.monotonic() - started
        directory: Path | None = None
        if spec.keep or judgement.verdict != "true":
            directory = simulation.keep()
            files.write_run(directory, judgement, seconds)
        return SimulatedRun(
            judgement=judgement,
            outcome=outcome(
                judgement, seconds=seconds, directory=directory.name if directory else None
            ),
            digest=simulation.digest,
            virtual_seconds=simulation.virtual_seconds,
            seconds=seconds,
            coverage=coverage,
            directory=directory,
            entries=simulation.entries,
        )
    finally:
        simulation.close()


class _Simulation:
    """What the parts of one run share. ``spec``: with a concrete scenario."""

    def __init__(
        self, spec: RunSpec, foundation: SharedServers, options: SimulationOptions
    ) -> None:
        self._spec = spec
        self._options = options
        self._foundation = foundation
        self._scratch = Path(tempfile.mkdtemp(prefix="run-", dir=foundation.directory))
        attempts = spec.scenario.workload.max_attempts
        self._backoff = longest_backoff(options.apps, attempts)
        self._bound = bounds.allowed(spec.scenario, self._backoff)
        self.records: list[Record] = []
        self.statements: list[ExecutedStatement] = []
        self.zero = 0.0
        self.digest = ""
        self.virtual_seconds = 0.0
        self.entries: list[Entry] = []

    def run(self) -> None:
        """Fill ``records``."""
        spec, options = self._spec, self._options
        loop = SimulationLoop(spec.seed, keep_trace=options.story, branch=options.branch)
        network = Network(loop)
        network.tap = options.tap
        shared = self._foundation
        postgres = PostgresNode(shared.postgres, loop, network, options.held_share)
        valkey = ValkeyNode(shared.valkey, loop, network)
        os.environ[SINK_URL] = f"http://{network.host('sink')}:{SINK_PORT}"
        os.environ["PGSSLMODE"] = "disable"  # spares the client's preparation for TLS
        postgres.listeners.append(self.statements.append)
        exports: list[bytes] = []
        parts = (spec.scenario, spec.seed, loop, network, postgres, valkey, self._scratch)

        async def main() -> None:
            clock = ArenaClock()
            environment = SimulatedEnvironment(*parts, apps=options.apps)
            if options.on_environment is not None:
                options.on_environment(environment)
            runner = Runner(
                spec,
                environment,
                clock,
                self.records.append,
                bound=self._bound,
                commit=shared.commit,
                backoff=self._backoff,
            )
            try:
                await environment.up()
                await runner.run()
            except NotReady as failed:  # virtual time is exact: no crowded machine explains it
                await runner.note_unready(failed)
            await runner.collect()
            exports.extend(runner.exports)
            self.zero = loop.time() - clock.now()
            await environment.observer.close()

        workload = spec.scenario.workload
        longest = workload.last_due_seconds + self._bound.seconds + _SPARE_SECONDS
        try:
            loop.run(main, max_seconds=longest)
            _require_sound(loop)
        finally:
            self.virtual_seconds = loop.time()
            self.entries = loop.trace.entries
            with _without_unraisable():
                postgres.close()
                valkey.close()
                loop.dispose()
                network.close()
        forward_exports(exports)
        for record in self.records:
            # A commit during a suite changes that of servers which are opened after it.
            alike = replace(record, commit=None) if isinstance(record, Run) else record
            loop.trace.note("node", "history", "", encode(alike))
        self.digest = loop.trace.digest

    def keep(self) -> Path:
        """Move the history and the logs to the run store."""
        spec = self._spec
        store = RunStore(spec.runs)
        directory = store.new_run(spec.scenario.id, spec.seed, spec.mutant)
        with HistoryWriter(directory / files.HISTORY) as writer:
            writer.write(*self.records)
        if (self._scratch / "logs").exists():
            shutil.move(self._scratch / "logs", directory / "logs")
        store.point_latest(directory)
        return directory

    def close(self) -> None:
        """Remove the remaining files."""
        shutil.rmtree(self._scratch, ignore_errors=True)


def _require_sound(loop: SimulationLoop) -> None:
    """Raise Unsound where something was not simulated, or where the harness printed an error."""
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
    """Disable garbage collection inside the block, because its timing is not deterministic.

    Afterwards collect what killed processes left, without their warnings and the errors of
    coroutines that are closed while they wait. Objects that existed before (100,000 of modules) are
    exempt, which saves time.
    """
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        with _without_unraisable(), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            caches.forget()
            gc.collect()
        gc.unfreeze()
        gc.enable()


@contextmanager
def _without_unraisable() -> Iterator[None]:
    """Ignore exceptions that are raised while objects are freed; a hook could keep the objects."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook
