"""Executes the planned faults of a scenario, and tells the history what really took hold."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, Protocol

from chaos.plan import After, FaultPlan
from chaos.process_strike import Actor, ProcessStrike
from chaos.records import Fault, InFlight
from chaos.scenario import Scenario
from chaos.vocabulary import FaultSort
from chaos.witness import Witness

_WATCH_SECONDS = 0.02
# Longer than the longest delay before a process that died is started again.
_ALIVE_SECONDS = 4.0
Hold = Callable[[], Awaitable[None]]
# Whether a strike was felt, and what shows it.
Felt = tuple[bool, dict[str, Any]]


class Battlefield(Protocol):
    """What there is to strike, in any arena. A strike lasts as long as ``hold`` does."""

    scenario: Scenario
    witness: Witness

    @property
    def actors(self) -> Mapping[str, Actor]:
        """The roles by name."""

    async def strike_edges(
        self, plan: FaultPlan, fault_id: str, edges: tuple[str, ...], hold: Hold
    ) -> Felt:
        """Break these edges; the evidence is by edge."""

    async def strike_server(self, fault: str, server: str, hold: Hold) -> Felt:
        """Strike Postgres or Redis itself."""


class Nemesis:
    """All faults of one run. ``now`` is the arena's clock, ``record`` writes to the history.

    Targets to pick are drawn from the run's seed, strike by strike.
    """

    def __init__(
        self,
        field: Battlefield,
        seed: int,
        now: Callable[[], float],
        record: Callable[[Fault], None],
    ) -> None:
        self._field = field
        self._seed = seed
        self._now = now
        self._record = record
        self._load_over = asyncio.Event()

    async def run(self) -> None:
        """Returns when all strikes are over; raises what a strike raised (others are healed)."""
        async with asyncio.TaskGroup() as group:
            for plan in self._field.scenario.faults:
                group.create_task(self._plan(plan), name=plan.name)

    def load_over(self) -> None:
        """Lift what holds until the heal, give up what waits for its event."""
        self._load_over.set()

    async def _plan(self, plan: FaultPlan) -> None:
        if not await self._moment(plan):
            return
        first = self._now()
        async with asyncio.TaskGroup() as strikes:
            for number, fault_id in enumerate(plan.strikes):
                await self._sleep_until(first + number * (plan.every or 0.0))
                strike = strikes.create_task(self._strike(plan, fault_id), name=fault_id)
                if plan.sort is FaultSort.EDGE:
                    # On a crowded machine one takes longer than planned: whoever is still to mend
                    # an edge would mend it for the next one, too.
                    await asyncio.wait([strike])

    async def _moment(self, plan: FaultPlan) -> bool:
        """Wait for the second or the event; False if the load was over before it came."""
        if plan.after is None:
            await self._sleep_until(plan.at or 0.0)
            return True
        while not self._load_over.is_set():
            if await self._field.witness.count(plan.after) >= plan.after.count:
                await asyncio.sleep(plan.after.plus)
                return True
            await asyncio.sleep(_WATCH_SECONDS)
        return False

    async def _strike(self, plan: FaultPlan, fault_id: str) -> None:
        targets = await self._targets(plan, fault_id)
        if not targets:
            return  # all of them stay down: nothing is struck, and the judge will see it
        strikes = self._process_strikes(plan, targets)
        for strike in strikes:
            await strike.busy()
        self._tell("start", plan, fault_id, targets, await self._field.witness.in_flight())
        before = await self._field.witness.count(plan.until) if plan.until else 0

        async def hold() -> None:
            if plan.for_seconds is None:
                await self._load_over.wait()
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(plan.for_seconds):
                    await self._until(plan.until, before)

        felt, evidence = await self._execute(plan, fault_id, targets, strikes, hold)
        if felt:
            self._tell("felt", plan, fault_id, targets, evidence=evidence)
        self._tell("end", plan, fault_id, targets, evidence={} if felt else evidence)

    async def _execute(
        self,
        plan: FaultPlan,
        fault_id: str,
        targets: tuple[str, ...],
        strikes: list[ProcessStrike],
        hold: Hold,
    ) -> Felt:
        field = self._field
        if plan.sort is FaultSort.EDGE:
            return await field.strike_edges(plan, fault_id, targets, hold)
        if plan.sort is FaultSort.PROCESS:
            results = await asyncio.gather(*(strike.run(hold) for strike in strikes))
        else:
            results = await asyncio.gather(
                *(field.strike_server(plan.fault, target, hold) for target in targets)
            )
        evidence = {target: found for target, (_, found) in zip(targets, results, strict=True)}
        return all(felt for felt, _ in results), evidence

    def _process_strikes(self, plan: FaultPlan, targets: tuple[str, ...]) -> list[ProcessStrike]:
        if plan.sort is not FaultSort.PROCESS:
            return []
        field = self._field
        return [ProcessStrike(plan, field.actors[name], field.witness) for name in targets]

    async def _targets(self, plan: FaultPlan, fault_id: str) -> tuple[str, ...]:
        """Whoever is to be struck; a process that is just being started again is waited for."""
        give_up = self._now() + _ALIVE_SECONDS
        while not (targets := self._pick(plan, fault_id)) and self._now() < give_up:
            await asyncio.sleep(_WATCH_SECONDS)
        return targets

    def _pick(self, plan: FaultPlan, fault_id: str) -> tuple[str, ...]:
        candidates = list(plan.candidates(self._field.scenario.topology))
        if plan.pick is not None:
            random.Random(f"{self._seed} {fault_id}").shuffle(candidates)
        if plan.sort is FaultSort.PROCESS:
            candidates = [name for name in candidates if self._field.actors[name].alive]
        return tuple(candidates[: plan.pick])

    def _tell(
        self,
        kind: Literal["start", "felt", "end"],
        plan: FaultPlan,
        fault_id: str,
        targets: tuple[str, ...],
        in_flight: InFlight | None = None,
        evidence: dict[str, Any] | None = None,
    ) -> None:
        self._record(
            Fault(
                type=kind,
                fault_id=fault_id,
                fault=plan.fault,
                targets=targets,
                at=round(self._now(), 4),
                in_flight=in_flight,
                evidence=evidence or {},
            )
        )

    async def _until(self, event: After | None, before: int) -> None:
        """Until the event has happened so often since; for ever without an event."""
        if event is None:
            await asyncio.Event().wait()
            return
        while await self._field.witness.count(event) - before < event.count:
            await asyncio.sleep(_WATCH_SECONDS)
        await asyncio.sleep(event.plus)

    async def _sleep_until(self, second: float) -> None:
        await asyncio.sleep(max(0.0, second - self._now()))
