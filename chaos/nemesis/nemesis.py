"""Inject the faults of a scenario and record which of them took effect."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from chaos.history.records import Fault, InFlight
from chaos.nemesis.process_faults import Actor, Hold, Observed, ProcessFault
from chaos.observers.database import DatabaseObserver
from chaos.scenario.faults import After, FaultSpec
from chaos.scenario.scenario import Scenario
from chaos.scenario.vocabulary import TargetKind

_POLL_SECONDS = 0.02
# Longer than the longest delay before a process that died is started again.
_RESTART_SECONDS = 4.0


class FaultTarget(Protocol):
    """What a nemesis injects faults into, in any arena. A fault lasts until ``hold`` returns."""

    @property
    def scenario(self) -> Scenario:
        """What runs, with its faults."""

    @property
    def observer(self) -> DatabaseObserver:
        """Reads the database, unaffected by faults."""

    @property
    def actors(self) -> Mapping[str, Actor]:
        """The roles by name."""

    async def inject_edge_fault(
        self, fault: FaultSpec, fault_id: str, edges: tuple[str, ...], hold: Hold, /
    ) -> Observed:
        """Break these edges; the evidence is keyed by edge."""

    async def inject_server_fault(self, fault: str, server: str, hold: Hold) -> Observed:
        """Break Postgres or Redis itself."""


class Nemesis:
    """Injects all faults of the scenario of ``target``.

    ``now`` is the arena's clock; ``record`` writes to the history. A fault with ``pick`` draws its
    targets from the run's seed, separately for each injection.
    """

    def __init__(
        self,
        target: FaultTarget,
        seed: int,
        now: Callable[[], float],
        record: Callable[[Fault], None],
    ) -> None:
        self._target = target
        self._seed = seed
        self._now = now
        self._record = record
        self._load_over = asyncio.Event()

    async def run(self) -> None:
        """Inject every fault as its spec says; return when all are over.

        The exception of an injection cancels the others, which are undone, and is raised.
        """
        async with asyncio.TaskGroup() as group:
            for fault in self._target.scenario.faults:
                group.create_task(self._schedule(fault), name=fault.name)

    def load_over(self) -> None:
        """End the faults without a duration; drop those that still wait for an event."""
        self._load_over.set()

    async def _schedule(self, fault: FaultSpec) -> None:
        """Inject the fault as often as its spec says."""
        if not await self._wait_for_start(fault):
            return
        first = self._now()
        async with asyncio.TaskGroup() as injections:
            for number, fault_id in enumerate(fault.fault_ids):
                await self._sleep_until(first + number * (fault.every or 0.0))
                injection = injections.create_task(self._inject(fault, fault_id), name=fault_id)
                if fault.target_kind is TargetKind.EDGE:
                    # On a loaded machine an injection may outlast its period. Its repair must not
                    # undo the next injection on the same edge.
                    await asyncio.wait([injection])

    async def _wait_for_start(self, fault: FaultSpec) -> bool:
        """Wait for the second or the event; return False if the load ended before the event."""
        if fault.after is None:
            await self._sleep_until(fault.at or 0.0)
            return True
        while not self._load_over.is_set():
            if await self._target.observer.count(fault.after) >= fault.after.count:
                await asyncio.sleep(fault.after.plus)
                return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    async def _inject(self, fault: FaultSpec, fault_id: str) -> None:
        targets = await self._targets(fault, fault_id)
        if not targets:
            return  # No candidate is running; skip the fault. The verdict will be `unknown`.
        process_faults = self._process_faults(fault, targets)
        for process_fault in process_faults:
            await process_fault.busy()
        in_flight = await self._target.observer.in_flight()
        self._write("start", fault, fault_id, targets, in_flight)
        before = await self._target.observer.count(fault.until) if fault.until else 0

        held: list[float] = []

        async def hold() -> None:
            began = self._now()
            if fault.for_seconds is None:
                await self._load_over.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(fault.for_seconds):
                        await self._wait_for_event(fault.until, before)
            held.append(round(self._now() - began, 4))

        observed, evidence = await self._apply(fault, fault_id, targets, process_faults, hold)
        if observed:
            self._write("felt", fault, fault_id, targets, evidence=evidence)
        missed = {} if observed else evidence
        self._write("end", fault, fault_id, targets, evidence=missed, held=tuple(held))

    async def _apply(
        self,
        fault: FaultSpec,
        fault_id: str,
        names: tuple[str, ...],
        process_faults: list[ProcessFault],
        hold: Hold,
    ) -> Observed:
        """Inject one fault into its targets, hold and undo it."""
        target = self._target
        if fault.target_kind is TargetKind.EDGE:
            return await target.inject_edge_fault(fault, fault_id, names, hold)
        if fault.target_kind is TargetKind.PROCESS:
            results = await asyncio.gather(*(each.run(hold) for each in process_faults))
        else:
            results = await asyncio.gather(
                *(target.inject_server_fault(fault.fault, name, hold) for name in names)
            )
        evidence = {name: found for name, (_, found) in zip(names, results, strict=True)}
        return all(observed for observed, _ in results), evidence

    def _process_faults(self, fault: FaultSpec, names: tuple[str, ...]) -> list[ProcessFault]:
        if fault.target_kind is not TargetKind.PROCESS:
            return []
        target = self._target
        return [ProcessFault(fault, target.actors[name], target.observer) for name in names]

    async def _targets(self, fault: FaultSpec, fault_id: str) -> tuple[str, ...]:
        """Pick the targets; wait for a process that is just being started again."""
        deadline = self._now() + _RESTART_SECONDS
        while not (targets := self._pick(fault, fault_id)) and self._now() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
        return targets

    def _pick(self, fault: FaultSpec, fault_id: str) -> tuple[str, ...]:
        candidates = list(fault.candidates(self._target.scenario.topology))
        if fault.pick is not None:
            random.Random(f"{self._seed} {fault_id}").shuffle(candidates)
        if fault.target_kind is TargetKind.PROCESS:
            candidates = [name for name in candidates if self._target.actors[name].alive]
        return tuple(candidates[: fault.pick])

    def _write(
        self,
        kind: Literal["start", "felt", "end"],
        fault: FaultSpec,
        fault_id: str,
        targets: tuple[str, ...],
        in_flight: InFlight | None = None,
        evidence: dict[str, Any] | None = None,
        held: tuple[float, ...] = (),
    ) -> None:
        self._record(
            Fault(
                type=kind,
                fault_id=fault_id,
                fault=fault.fault,
                targets=targets,
                at=round(self._now(), 4),
                in_flight=in_flight,
                evidence=evidence or {},
                held_seconds=held,
            )
        )

    async def _wait_for_event(self, event: After | None, before: int) -> None:
        """Wait until the event has happened ``event.count`` times since; forever without one."""
        if event is None:
            await asyncio.Event().wait()
            return
        while await self._target.observer.count(event) - before < event.count:
            await asyncio.sleep(_POLL_SECONDS)
        await asyncio.sleep(event.plus)

    async def _sleep_until(self, second: float) -> None:
        await asyncio.sleep(max(0.0, second - self._now()))
