"""The course of every run, in any arena: load and break, heal, drain, collect.

A ``Stage`` is what an arena has to offer; the same lines run on real processes in real time, and
inside a simulation in virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from chaos import otlp, telemetry
from chaos.nemesis import Battlefield, Nemesis
from chaos.process_strike import ProcessEnd
from chaos.records import Bound, Exit, Fault, Phase, Record, Run, SinkCall, Sometimes
from chaos.run_trace import SERVICE, run_spans
from chaos.scenario import Scenario
from chaos.sink import Call
from chaos.witness import WitnessAway, instant

_POLL_SECONDS = 0.1
# A client that waits for its last answers, and its last resends, after the planned end.
_LOAD_GRACE_SECONDS = 40.0


class Clients(Protocol):
    """Those who submit, cancel and read; ready before the course begins."""

    def go(self, zero: float) -> None:
        """Arena second 0 is that Unix time: begin."""

    async def done(self) -> None:
        """Wait until every client has worked off its share."""

    def answered(self) -> int:
        """Operations that are over so far, whatever their answer."""

    def operations(self) -> Iterable[Record]:
        """Both halves of every operation, in the order they were recorded."""


class Stage(Battlefield, Protocol):
    """A stack that is up, and its clients."""

    @property
    def clients(self) -> Clients:
        """The load."""

    @property
    def exits(self) -> list[ProcessEnd]:
        """Every end of a role's process so far, in order."""

    async def heal(self, core: Sequence[str]) -> None:
        """Mend all edges of the core and wait until it works; every other role is killed."""

    async def stop_roles(self) -> None:
        """Stop all roles for good."""

    def sink_calls(self) -> list[Call]:
        """What the receiver of external effects has seen."""

    def exports(self) -> list[bytes]:
        """What the collector of spans has received, request by request."""

    def sightings(self, testimony: Sequence[Record], since: str) -> list[Sometimes]:
        """What only the arena can see, from the instant ``since`` on."""


class LoadTooLong(Exception):
    """The clients did not come to an end."""


class ArenaClock:
    """Seconds since arena second 0, which is set when the course begins."""

    def __init__(self) -> None:
        self.zero = time.time()

    def now(self) -> float:
        """Before the course begins: since this clock was made."""
        return time.time() - self.zero


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run. ``scenario`` is a concrete one (``Scenario.drawn``).

    ``drain_seconds``: the drain is given up after so long (None: after T), what is open then stays
    undecided. ``commit``: of the sources, if known. ``mutant``: what was changed in them.
    """

    arena: Literal["live", "simulation", "compose"]
    scenario: Scenario
    seed: int
    bound: Bound
    commit: str | None = None
    mutant: str | None = None
    drain_seconds: float | None = None


class Course:
    """One run. ``write`` takes every record; ``show`` is told the phase, and how far it is.

    ``exports``: once collected, all spans as they were received, and those of the harness.
    """

    def __init__(
        self,
        plan: Plan,
        stage: Stage,
        clock: ArenaClock,
        write: Callable[[Record], None],
        show: Callable[[str, str], None] | None = None,
    ) -> None:
        self._plan = plan
        self._stage = stage
        self._clock = clock
        self._write = write
        self._show = show
        self._epoch = ""
        self._run: Run | None = None
        self._faults: list[Fault] = []
        self.exports: list[bytes] = []

    async def run(self) -> None:
        """Returns when everything is written."""
        await self._begin()
        await self._break()
        await self._heal()
        await self._drain()

    async def collect(self) -> None:
        """Everybody's testimony, read when no role is there any more to change it."""
        if self._show:
            self._show("reading", "")
        stage = self._stage
        await stage.stop_roles()
        self._tell(stage.clients.operations())
        testimony = await stage.witness.testimony()
        self._tell(testimony)
        self._tell(stage.sightings(testimony, self._epoch))
        for call in stage.sink_calls():
            self._write(
                SinkCall(
                    at=call.at - self._clock.zero,
                    key=call.key,
                    task_id=call.task_id or call.key,
                    epoch=call.epoch or 0,
                    applied=call.applied,
                )
            )
        self._tell(Exit(**asdict(end) | {"at": end.at - self._clock.zero}) for end in stage.exits)
        self._collect_spans()
        self._phase("drained")

    def _collect_spans(self) -> None:
        """Roles tell their last spans when they stop: read after that."""
        zero = self._clock.zero
        self.exports = self._stage.exports()
        if self._run is not None:
            own = run_spans(self._run, self._faults, self._clock.now())
            about = {"service.name": SERVICE, "service.instance.id": self._plan.arena}
            self.exports.append(otlp.encode(own, zero, about))
        self._tell(otlp.decode(self.exports, zero))

    async def _begin(self) -> None:
        # One clock: arena second 0 is an instant that harness and database know exactly.
        epoch = await self._stage.witness.clock()
        self._clock.zero = epoch.timestamp()
        self._epoch = instant(epoch)
        plan = self._plan
        self._run = Run(
            scenario=plan.scenario.document,
            seed=plan.seed,
            arena=plan.arena,
            database_epoch=self._epoch,
            bound=plan.bound,
            settings=telemetry.settings(plan.scenario.topology.settings),
            commit=plan.commit,
            mutant=plan.mutant,
        )
        self._write(self._run)
        self._phase("faults", at=0.0)
        self._stage.clients.go(self._clock.zero)

    async def _break(self) -> None:
        """The load, and the faults meanwhile; returns when both are over."""
        workload = self._plan.scenario.workload
        nemesis = Nemesis(self._stage, self._plan.seed, self._clock.now, self._strike)

        async def load() -> None:
            limit = workload.seconds + _LOAD_GRACE_SECONDS
            try:
                await asyncio.wait_for(self._stage.clients.done(), limit)
            except TimeoutError:
                raise LoadTooLong(f"the clients were still busy after {limit:.0f} s") from None
            await asyncio.sleep(workload.last_due_seconds - self._clock.now())
            nemesis.load_over()

        async with self._watched("faults"), asyncio.TaskGroup() as group:
            group.create_task(load())
            group.create_task(nemesis.run())

    def _strike(self, record: Fault) -> None:
        self._faults.append(record)
        self._write(record)

    async def _heal(self) -> None:
        core = self._plan.scenario.core(self._plan.seed)
        async with self._watched("healing"):
            await self._stage.heal(core)
        self._phase("healed", core=core)

    async def _drain(self) -> None:
        """Until all tasks are terminal, or T is over and then some of the rest is due."""
        longest = self._plan.bound.seconds + 1.0
        asked = self._plan.drain_seconds
        give_up = time.monotonic() + (longest if asked is None else min(longest, asked))
        async with self._watched("draining"):
            while (await self._stage.witness.counts()).open and time.monotonic() < give_up:
                await asyncio.sleep(_POLL_SECONDS)

    @contextlib.asynccontextmanager
    async def _watched(self, phase: str) -> AsyncIterator[None]:
        """Progress is shown inside the block, if anybody looks."""
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
        while True:
            with contextlib.suppress(WitnessAway):
                counts = await self._stage.witness.counts()
                detail = f"answered {self._stage.clients.answered()}, terminal {counts.terminal}, "
                detail += f"in flight {counts.open}, stale writes refused {counts.stale_writes}"
                show(phase, detail)
            await asyncio.sleep(2 * _POLL_SECONDS)

    def _phase(
        self,
        phase: Literal["faults", "healed", "drained"],
        at: float | None = None,
        core: tuple[str, ...] = (),
    ) -> None:
        self._write(Phase(phase=phase, at=self._clock.now() if at is None else at, core=core))

    def _tell(self, records: Iterable[Any]) -> None:
        for record in records:
            self._write(record)
