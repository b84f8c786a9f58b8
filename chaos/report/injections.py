"""Group the fault records of a run: each planned fault with its injections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from chaos.history.history import History
from chaos.history.records import Fault, InFlight
from chaos.scenario.faults import FaultSpec


@dataclass(frozen=True, slots=True)
class Injection:
    """One injection of a fault, in arena seconds.

    ``end`` is None if it never ended, ``observed`` None if no evidence showed it. ``in_flight``:
    tasks open and running when it began; ``evidence``: what showed it.
    """

    fault_id: str
    name: str
    fault: str
    targets: tuple[str, ...]
    start: float
    end: float | None
    observed: float | None
    in_flight: InFlight | None
    evidence: dict[str, Any]

    def until(self, last: float) -> float:
        """Return the end, or ``last`` if it never ended."""
        return last if self.end is None else self.end

    def covers(self, at: float) -> bool:
        """Return whether the fault was active at that second."""
        return self.start <= at and (self.end is None or at <= self.end)


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """A fault of the scenario with its injections: up to ``times``; 0 if it was not planned."""

    name: str
    fault: str
    aim: str
    times: int
    injections: tuple[Injection, ...]

    @property
    def observed(self) -> int:
        """Number of injections that evidence showed."""
        return sum(injection.observed is not None for injection in self.injections)


def injections(history: History) -> tuple[Injection, ...]:
    """Return every injection, planned or not, in the order of their beginnings."""
    found = (_injection(fault_id, records) for fault_id, records in history.faults.items())
    return tuple(sorted((i for i in found if i is not None), key=lambda i: (i.start, i.fault_id)))


def planned_faults(
    plans: Sequence[FaultSpec], injected: Sequence[Injection]
) -> tuple[PlannedFault, ...]:
    """Return the planned faults in the scenario's order, then injections that were not planned."""
    return tuple(_planned(plans, injected))


def _planned(plans: Sequence[FaultSpec], injected: Sequence[Injection]) -> Iterator[PlannedFault]:
    left = {injection.fault_id: injection for injection in injected}
    for plan in plans:
        mine = tuple(left.pop(each) for each in plan.fault_ids if each in left)
        yield PlannedFault(plan.name, plan.fault, _aim(plan), plan.times, mine)
    for each in left.values():
        yield PlannedFault(each.name, each.fault, ", ".join(each.targets), 0, (each,))


def _aim(plan: FaultSpec) -> str:
    some = f"{plan.pick} of " if plan.pick else ""
    return some + ", ".join(plan.target)


def _injection(fault_id: str, records: tuple[Fault, ...]) -> Injection | None:
    by_type = {record.type: record for record in records}
    first = by_type.get("start") or by_type.get("felt")
    if first is None:
        return None
    observed, end = by_type.get("felt"), by_type.get("end")
    evidence = {k: v for record in records for k, v in record.evidence.items()}
    return Injection(
        fault_id=fault_id,
        name=fault_id.rpartition("#")[0] or fault_id,
        fault=first.fault,
        targets=first.targets,
        start=first.at,
        end=end.at if end else None,
        observed=observed.at if observed else None,
        in_flight=first.in_flight,
        evidence=evidence,
    )
