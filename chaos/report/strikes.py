"""The faults of a run as people count them: each plan, each of its strikes, and what it met."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chaos.history import History
from chaos.plan import FaultSpec
from chaos.records import Fault, InFlight
from chaos.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Strike:
    """One strike, in arena seconds. ``end`` None: it never ended. ``felt`` None: it was not felt.

    ``in_flight``: tasks open and running when it began; ``evidence``: what showed it.
    """

    fault_id: str
    name: str
    fault: str
    targets: tuple[str, ...]
    start: float
    end: float | None
    felt: float | None
    in_flight: InFlight | None
    evidence: dict[str, Any]

    def until(self, last: float) -> float:
        """Its end; ``last`` where it never ended."""
        return last if self.end is None else self.end

    def covers(self, at: float) -> bool:
        """Whether it lasted at that second."""
        return self.start <= at and (self.end is None or at <= self.end)


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan of the scenario with its strikes; fewer than ``times`` where some never struck."""

    name: str
    fault: str
    aim: str
    times: int
    strikes: tuple[Strike, ...]

    @property
    def felt(self) -> int:
        return sum(strike.felt is not None for strike in self.strikes)


def strikes(history: History) -> tuple[Strike, ...]:
    """Every strike in the order of their beginnings, whether planned or not."""
    found = (_strike(fault_id, records) for fault_id, records in history.faults.items())
    return tuple(sorted((s for s in found if s is not None), key=lambda s: (s.start, s.fault_id)))


def planned(history: History) -> tuple[Planned, ...]:
    """The plans of the scenario in its order; then what struck without being planned.

    Raises:
        ValueError: the run record has no usable scenario.
    """
    return tuple(_planned(history))


def _planned(history: History) -> Iterator[Planned]:
    left = {strike.fault_id: strike for strike in strikes(history)}
    for plan in Scenario.model_validate(history.run.scenario).faults:
        mine = tuple(left.pop(each) for each in plan.fault_ids if each in left)
        yield Planned(plan.name, plan.fault, _aim(plan), plan.times, mine)
    for strike in left.values():
        yield Planned(strike.name, strike.fault, ", ".join(strike.targets), 0, (strike,))


def _aim(plan: FaultSpec) -> str:
    some = f"{plan.pick} of " if plan.pick else ""
    return some + ", ".join(plan.target)


def _strike(fault_id: str, records: tuple[Fault, ...]) -> Strike | None:
    by_type = {record.type: record for record in records}
    first = by_type.get("start") or by_type.get("felt")
    if first is None:
        return None
    felt, end = by_type.get("felt"), by_type.get("end")
    evidence = {k: v for record in records for k, v in record.evidence.items()}
    return Strike(
        fault_id=fault_id,
        name=fault_id.rpartition("#")[0] or fault_id,
        fault=first.fault,
        targets=first.targets,
        start=first.at,
        end=end.at if end else None,
        felt=felt.at if felt else None,
        in_flight=first.in_flight,
        evidence=evidence,
    )
