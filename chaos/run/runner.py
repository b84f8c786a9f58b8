"""Run one scenario in any arena: load and faults, heal, drain, collect.

An arena provides the ``Environment``. The same code runs on real processes in real time and inside
a simulation in virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol

from chaos.checker.invariants.hints import seconds_allowed
from chaos.clients.client import OperationLog
from chaos.history.conditions import Condition
from chaos.history.records import (
    Bound,
    Exit,
    Fault,
    PhaseStart,
    Record,
    Run,
    SinkCall,
    Sometimes,
    Unready,
)
from chaos.history.rest import HintsAtRest, QueueHints
from chaos.nemesis.nemesis import FaultTarget, Nemesis
from chaos.nemesis.process_faults import NotReady, ProcessEnd
from chaos.observers import otlp
from chaos.observers.database import DatabaseUnavailable, instant
from chaos.observers.run_trace import SERVICE, run_spans
from chaos.observers.sink import Call
from chaos.run.reader import planned, read_all, scrape
from chaos.run.spec import RunSpec
from holdfast.model.lifecycle import Backoff

_POLL_SECONDS = 0.1
# For the last responses and resends after the planned end of the load.
_LOAD_GRACE_SECONDS = 40.0
_LOG_CHARACTERS = 2000


class LoadGenerator(Protocol):
    """The clients, which submit, cancel and read; ready before the run begins."""

    def begin(self, zero: float) -> None:
        """Let the clients send; ``zero``: the Unix time of arena second 0."""

    async def done(self) -> None:
        """Wait until every client has finished its share."""

    def answered(self) -> int:
        """Return how many operations have completed so far, with any outcome."""

    def operations(self) -> Iterable[Record]:
        """Return both halves of every operation, in the order they were recorded."""


class Environment(FaultTarget, Protocol):
    """A running system under test with its clients."""

    @property
    def clients(self) -> LoadGenerator:
        """The load."""

    @property
    def exits(self) -> list[ProcessEnd]:
        """Every end of a role's process so far, in order."""

    async def heal(self, core: Sequence[str]) -> None:
        """Repair all edges of the core and wait until it is ready; kill every other role."""

    def api_url(self, api: str) -> str:
        """Return the address of an API of the healed core for the harness itself."""

    def metrics_url(self, role: str) -> str | None:
        """Return where the harness reads the metrics of a role; None: it cannot."""

    async def hints_left(self) -> tuple[QueueHints, ...]:
        """Return the hints that Redis holds now, of each queue that has a stream."""

    async def conditions(self, role: str) -> Mapping[str, dict[str, Any]]:
        """Return what shows each condition of the topology, by name; over edges of ``role``."""

    async def stop_roles(self) -> None:
        """Stop all roles for good."""

    def sink_calls(self) -> list[Call]:
        """Return the calls that the sink of external effects received."""

    def exports(self) -> list[bytes]:
        """Return the span exports that the collector received, one per request."""

    def observations(self, final_records: Sequence[Record], since: str) -> list[Sometimes]:
        """Return what only the arena can observe, from the instant ``since`` on."""


class LoadTimeout(Exception):
    """The clients did not finish in time."""


class ArenaClock:
    """Measures seconds since arena second 0, which is set when the run begins."""

    def __init__(self) -> None:
        self.zero = time.time()

    def now(self) -> float:
        """Return the arena second; before the run begins, seconds since this clock was created."""
        return time.time() - self.zero


class Runner:
    """Runs one spec, whose scenario is concrete (``RunSpec.drawn``), in an environment.

    ``write`` is called with every record, ``show`` with the phase and its progress. ``commit`` is
    the revision of the sources, if known; ``backoff`` that of ``bound`` (``bounds.allowed``). After
    ``collect``, ``exports`` holds all span exports: those of the collector, and one of the harness.
    """

    def __init__(
        self,
        spec: RunSpec,
        environment: Environment,
        clock: ArenaClock,
        write: Callable[[Record], None],
        *,
        bound: Bound,
        commit: str | None,
        backoff: Backoff | None = None,
        show: Callable[[str, str], None] | None = None,
    ) -> None:
        self._spec = spec
        self._environment = environment
        self._clock = clock
        self._write = write
        self._bound = bound
        self._backoff = backoff
        self._commit = commit
        self._show = show
        self._zero_instant = ""
        self._run: Run | None = None
        self._faults: list[Fault] = []
        self._reads: list[Record] = []
        self.exports: list[bytes] = []

    async def run(self) -> None:
        """Apply load and faults, heal and drain the environment; it still runs afterwards.

        Raises:
            NotReady: a role is not ready after the heal, in virtual time.
        """
        await self._begin()
        self._environment.clients.begin(self._clock.zero)
        await self._load_and_inject()
        await self._heal()
        await self._drain()
        await self._read()

    async def note_unready(self, failed: NotReady) -> None:
        """Record a role that was not ready at the start or after the heal; end with ``collect``."""
        if self._run is None:
            await self._begin()
        log = str(failed)[-_LOG_CHARACTERS:]
        now = self._clock.now()
        self._write(Unready(actor=failed.actor, at=now, starts=failed.starts, log=log))

    async def collect(self) -> None:
        """Look at the environment, stop the roles, then record what could change meanwhile."""
        if self._show:
            self._show("reading", "")
        environment, zero = self._environment, self._clock.zero
        for name, evidence in (await environment.conditions(self._api)).items():
            self._write(Condition(name=name, at=round(self._clock.now(), 4), evidence=evidence))
        await environment.stop_roles()
        self._write_all(environment.clients.operations())
        self._write_all(self._reads)
        final_records = await environment.observer.final_records()
        self._write_all(final_records)
        self._write_all(environment.observations(final_records, self._zero_instant))
        for call in environment.sink_calls():
            self._write(
                SinkCall(
                    at=call.at - zero,
                    key=call.key,
                    task_id=call.task_id or call.key,
                    epoch=call.epoch or 0,
                    applied=call.applied,
                    seen=call.seen,
                )
            )
        self._write_all(Exit(**asdict(end) | {"at": end.at - zero}) for end in environment.exits)
        self._collect_spans()
        self._phase("drained")

    def _collect_spans(self) -> None:
        """Read the spans after the stop, because roles export their last ones when they stop."""
        zero = self._clock.zero
        self.exports = self._environment.exports()
        if self._run is not None:
            spans = run_spans(self._run, self._faults, self._clock.now())
            resource = {"service.name": SERVICE, "service.instance.id": self._spec.arena}
            self.exports.append(otlp.encode(spans, zero, resource))
        self._write_all(otlp.decode(self.exports, zero))

    async def _begin(self) -> None:
        # Taking arena second 0 from the database gives the harness and the database one clock.
        zero = await self._environment.observer.clock()
        self._clock.zero = zero.timestamp()
        self._zero_instant = instant(zero)
        spec = self._spec
        self._run = Run(
            scenario=spec.scenario.document,
            seed=spec.seed,
            arena=spec.arena,
            database_epoch=self._zero_instant,
            bound=self._bound,
            settings=otlp.trace_settings(spec.scenario.topology.settings),
            backoff=self._backoff,
            commit=self._commit,
            mutant=spec.mutant,
        )
        self._write(self._run)
        self._phase("faults", at=0.0)

    async def _load_and_inject(self) -> None:
        """Return when both the load and the faults are over."""
        environment, workload = self._environment, self._spec.scenario.workload
        nemesis = Nemesis(environment, self._spec.seed, self._clock.now, self._write_fault)

        async def load() -> None:
            limit = workload.seconds + _LOAD_GRACE_SECONDS
            try:
                await asyncio.wait_for(environment.clients.done(), limit)
            except TimeoutError:
                raise LoadTimeout(f"the clients did not finish within {limit:.0f} s") from None
            await asyncio.sleep(workload.last_due_seconds - self._clock.now())
            nemesis.load_over()

        async with self._progress("faults"), asyncio.TaskGroup() as group:
            group.create_task(load())
            group.create_task(nemesis.run())

    def _write_fault(self, record: Fault) -> None:
        self._faults.append(record)
        self._write(record)

    async def _heal(self) -> None:
        core = self._spec.scenario.core(self._spec.seed)
        self._phase("healing")
        async with self._progress("healing"):
            await self._environment.heal(core)
        self._phase("healed", core=core)

    async def _drain(self) -> None:
        """Wait until all tasks are terminal, at most one second longer than the bound T."""
        limit = self._bound.seconds + 1.0
        if self._spec.drain_seconds is not None:
            limit = min(limit, self._spec.drain_seconds)
        give_up = time.monotonic() + limit
        async with self._progress("draining"):
            while (await self._environment.observer.counts()).open and time.monotonic() < give_up:
                await asyncio.sleep(_POLL_SECONDS)

    async def _read(self) -> None:
        """Read what the API says of a sample of all tasks, at rest if they are terminal."""
        environment, seed = self._environment, self._spec.seed
        quiet = not (await environment.observer.counts()).open
        if quiet:
            self._phase("quiet")
        reads = list(planned(seed, await environment.observer.tasks()))
        core = self._spec.scenario.core(seed)
        zero = self._clock.zero
        log = OperationLog(self._reads.append, lambda: zero, time.time, prefix="read")
        async with self._progress("reading"):
            await read_all(environment.api_url(self._api), reads, log, self._secret)
            for role in core:
                if (url := environment.metrics_url(role)) is not None:
                    self._reads.append(await scrape(url, role, self._clock.now(), self._secret))
            if quiet:
                self._reads.append(await self._hints_at_rest())

    @property
    def _api(self) -> str:
        """An API of the healed core."""
        core = self._spec.scenario.core(self._spec.seed)
        return next(name for name in core if name.startswith("api-"))

    @property
    def _secret(self) -> str | None:
        """The last secret of an API key, if the APIs require any."""
        keys = self._spec.scenario.workload.api_keys
        return next((secrets[-1] for secrets in keys.values()), None)

    async def _hints_at_rest(self) -> HintsAtRest:
        """Read the hints in Redis until there are none, at most as long as S29 allows."""
        scenario = self._spec.scenario
        calm = not (scenario.faults or scenario.workload.poison)
        begun, limit = time.monotonic(), seconds_allowed(self._bound, calm=calm)
        while True:
            queues = await self._environment.hints_left()
            waited = time.monotonic() - begun
            if waited >= limit or not any(queue.entries or queue.pending for queue in queues):
                now = self._clock.now()
                return HintsAtRest(at=now, waited_seconds=round(waited, 4), queues=queues)
            await asyncio.sleep(_POLL_SECONDS)

    @contextlib.asynccontextmanager
    async def _progress(self, phase: str) -> AsyncIterator[None]:
        """Show progress inside the block, if ``show`` was given."""
        if self._show is None:
            yield
            return
        task = asyncio.create_task(self._keep_showing(phase, self._show), name="progress")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep_showing(self, phase: str, show: Callable[[str, str], None]) -> None:
        environment = self._environment
        while True:
            with contextlib.suppress(DatabaseUnavailable):
                counts = await environment.observer.counts()
                detail = f"answered {environment.clients.answered()}, terminal {counts.terminal}, "
                detail += f"in flight {counts.open}, stale writes refused {counts.stale_writes}"
                show(phase, detail)
            await asyncio.sleep(2 * _POLL_SECONDS)

    def _phase(
        self,
        phase: Literal["faults", "healing", "healed", "quiet", "drained"],
        at: float | None = None,
        core: tuple[str, ...] = (),
    ) -> None:
        at = round(self._clock.now() if at is None else at, 4)  # as instants of faults
        self._write(PhaseStart(phase=phase, at=at, core=core))

    def _write_all(self, records: Iterable[Record]) -> None:
        for record in records:
            self._write(record)
