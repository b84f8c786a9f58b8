"""Why a span may be missing without anybody being at fault: S13 asks, and counts the answers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from chaos import telemetry
from chaos.history import History
from chaos.plan import COLLECTOR
from chaos.records import Event, Fault
from system.settings import Settings

KILLED = "its process was killed"
UNHEARD = "its process never heard that it had happened"
UNREACHED = "the collector could not be reached"

# What an export under way may take on a crowded machine, and the reaping of a process.
_EXPORT_SECONDS = 1.0
# A statement that was on its way when its sender was killed is carried out all the same.
_UNDER_WAY_SECONDS = 2.0
# An answer on its way when a fault begins, and a statement that waited for its end.
_BEFORE_SECONDS, _AFTER_SECONDS = 0.2, 1.0
# A collector that answers well within it, both ways counted, is slow, not away.
_PATIENCE_MILLISECONDS = 2000
# On an edge to Postgres, and on Postgres: what loses answers. Latency does when it is long.
_LOSING = frozenset({"timeout", "down", "reset_peer", "limit_data", "bandwidth"})
_POSTGRES = frozenset({"kill", "pause", "restart", "terminate_backends"})


@dataclass(frozen=True, slots=True)
class _Strike:
    start: float
    end: float

    def covers(self, at: float) -> bool:
        return self.start - _BEFORE_SECONDS <= at <= self.end + _AFTER_SECONDS

    def overlap(self, start: float, end: float) -> float:
        """Seconds in common."""
        return max(0.0, min(end, self.end) - max(start, self.start))


class Excuses:
    """All of one history. Seconds are the arena's."""

    def __init__(self, history: History) -> None:
        self._history = history
        settings = history.run.settings
        self._interval = float(settings.get("trace_export_seconds", telemetry.EXPORT_SECONDS))
        default = Settings.model_fields["statement_timeout_seconds"].default
        self._statement = float(settings.get("statement_timeout_seconds", default))
        self._unreached: defaultdict[str, list[_Strike]] = defaultdict(list)
        self._paused: defaultdict[str, list[_Strike]] = defaultdict(list)
        self._unheard: defaultdict[str, list[_Strike]] = defaultdict(list)
        planned = {p["name"]: p for p in history.run.scenario.get("faults", ())}
        for fault_id, records in history.faults.items():
            self._learn(records, planned.get(fault_id.partition("#")[0], {}))

    def of_event(self, event: Event) -> str | None:
        """Why whoever made this transition may have told no span of it; None: no reason."""
        found = self.of(self.label(event), self._history.seconds(event.at))
        return found or (KILLED if self._outlived(event) else None)

    def of(self, label: str, at: float) -> str | None:
        """Why a process of this name may not have delivered what it had to tell at that second."""
        window = self._interval + _EXPORT_SECONDS
        for end in self._history.exits.get(label, ()):
            idle = sum(pause.overlap(at, end.at) for pause in self._paused[label])
            if end.code < 0 and -_UNDER_WAY_SECONDS <= end.at - at - idle <= window:
                return KILLED
        if any(strike.start - window <= at <= strike.end for strike in self._unreached[label]):
            return UNREACHED
        strikes = [*self._unheard[label], *self._unheard["postgres"], *self._paused[label]]
        return UNHEARD if any(strike.covers(at) for strike in strikes) else None

    def label(self, event: Event) -> str:
        """The process that made a transition, by its name."""
        role, _, who = event.actor.partition(":")
        worker = self._history.workers.get(who) if role == "worker" else None
        return worker.label if worker else who

    def _outlived(self, event: Event) -> bool:
        """The transition came later than the end of the very incarnation that had asked for it."""
        worker = self._history.workers.get(event.actor.partition(":")[2])
        if worker is None:
            return False
        started, at = (self._history.seconds(each) for each in (worker.started_at, event.at))
        ends = [end.at for end in self._history.exits.get(worker.label, ()) if end.at > started]
        return bool(ends) and min(ends) < at

    def _learn(self, records: Iterable[Fault], plan: dict[str, Any]) -> None:
        by_type = {record.type: record for record in records}
        start, end = by_type.get("start"), by_type.get("end")
        if start is None:
            return
        strike = _Strike(start.at, end.at if end else math.inf)
        for target in start.targets:
            actor, _, server = target.partition("->")
            if server == COLLECTOR:
                slow = start.fault == "latency" and 2 * _milliseconds(plan) < _PATIENCE_MILLISECONDS
                self._unreached[actor].extend([] if slow else [strike])
            elif start.fault == "pause" and target != "postgres":
                self._paused[target].append(strike)
            elif self._loses_answers(start.fault, target, plan):
                self._unheard[actor].append(strike)

    def _loses_answers(self, fault: str, target: str, plan: dict[str, Any]) -> bool:
        if target == "postgres":
            return fault in _POSTGRES
        if not target.endswith("->postgres"):
            return False
        return fault in _LOSING or 2 * _milliseconds(plan) >= 1000 * self._statement


def _milliseconds(plan: dict[str, Any]) -> int:
    return int(plan.get("attributes", {}).get("latency", 0))


def first(reasons: Iterable[str | None]) -> str | None:
    """The first of the reasons if everybody has one: one teller without an excuse is enough."""
    found = list(_until_none(reasons))
    return found[0] if found and None not in found else None


def _until_none(reasons: Iterable[str | None]) -> Iterator[str | None]:
    for reason in reasons:
        yield reason
        if reason is None:
            return
