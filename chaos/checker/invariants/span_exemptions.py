"""Decide when S13 exempts a missing span because its process could not have exported it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from chaos.history.history import History
from chaos.history.records import Event, Fault
from chaos.observers import otlp
from chaos.scenario.faults import COLLECTOR
from holdfast.settings import Settings

KILLED = "its process was killed"
REPLY_LOST = "its process received no reply to the statement"
COLLECTOR_UNREACHABLE = "the collector was unreachable"

# How long a started export and the reaping of a process may take on a loaded machine.
_EXPORT_SECONDS = 1.0
# A statement in flight when its sender is killed is still executed.
_UNDER_WAY_SECONDS = 2.0
# A reply in flight when the fault begins, and a statement that waited for the end of the fault.
_BEFORE_SECONDS, _AFTER_SECONDS = 0.2, 1.0
# A collector whose round trip is below this is slow, but reachable.
_REACHABLE_MILLISECONDS = 2000
# Faults that lose replies: on an edge to Postgres, and on Postgres. Long latency does too.
_LOSES_REPLIES = frozenset(
    {"timeout", "down", "reset_peer", "limit_data", "bandwidth", "silent_drop"}
)
_POSTGRES = frozenset({"kill", "pause", "restart", "terminate_backends"})


@dataclass(frozen=True, slots=True)
class _Interval:
    start: float
    end: float

    def covers(self, at: float) -> bool:
        return self.start - _BEFORE_SECONDS <= at <= self.end + _AFTER_SECONDS

    def overlap(self, start: float, end: float) -> float:
        """Return the seconds that both intervals have in common."""
        return max(0.0, min(end, self.end) - max(start, self.start))


class SpanExemptions:
    """Decides exemptions for one history. All seconds are arena seconds."""

    def __init__(self, history: History) -> None:
        self._history = history
        settings = history.run.settings
        self._export = float(settings.get("trace_export_seconds", otlp.EXPORT_SECONDS))
        default = Settings.model_fields["statement_timeout_seconds"].default
        self._statement = float(settings.get("statement_timeout_seconds", default))
        self._collector_cut: defaultdict[str, list[_Interval]] = defaultdict(list)
        self._paused: defaultdict[str, list[_Interval]] = defaultdict(list)
        self._replies_lost: defaultdict[str, list[_Interval]] = defaultdict(list)
        planned = {p["name"]: p for p in history.run.scenario.get("faults", ())}
        for fault_id, records in history.faults.items():
            self._add_fault(records, planned.get(fault_id.partition("#")[0], {}))

    def for_event(self, event: Event) -> str | None:
        """Return why the process that made this transition may lack its span; None: no reason."""
        found = self.for_process(self.label(event), self._history.seconds(event.at))
        return found or (KILLED if self._committed_after_exit(event) else None)

    def for_process(self, label: str, at: float) -> str | None:
        """Return why a span of this process from that second may be missing; None: no reason."""
        window = self._export + _EXPORT_SECONDS
        for end in self._history.exits.get(label, ()):
            idle = sum(pause.overlap(at, end.at) for pause in self._paused[label])
            if end.code < 0 and -_UNDER_WAY_SECONDS <= end.at - at - idle <= window:
                return KILLED
        if any(
            interval.start - window <= at <= interval.end for interval in self._collector_cut[label]
        ):
            return COLLECTOR_UNREACHABLE
        intervals = [
            *self._replies_lost[label],
            *self._replies_lost["postgres"],
            *self._paused[label],
        ]
        return REPLY_LOST if any(interval.covers(at) for interval in intervals) else None

    def label(self, event: Event) -> str:
        """Return the name of the process that made a transition."""
        role, _, who = event.actor.partition(":")
        worker = self._history.workers.get(who) if role == "worker" else None
        return worker.label if worker else who

    def _committed_after_exit(self, event: Event) -> bool:
        """Return whether the transition was committed after its incarnation had exited."""
        worker = self._history.workers.get(event.actor.partition(":")[2])
        if worker is None:
            return False
        started, at = (self._history.seconds(each) for each in (worker.started_at, event.at))
        ends = [end.at for end in self._history.exits.get(worker.label, ()) if end.at > started]
        return bool(ends) and min(ends) < at

    def _add_fault(self, records: Iterable[Fault], plan: dict[str, Any]) -> None:
        by_type = {record.type: record for record in records}
        start, end = by_type.get("start"), by_type.get("end")
        if start is None:
            return
        interval = _Interval(start.at, end.at if end else math.inf)
        for target in start.targets:
            actor, _, server = target.partition("->")
            if server == COLLECTOR:
                slow = (
                    start.fault == "latency" and 2 * _milliseconds(plan) < _REACHABLE_MILLISECONDS
                )
                self._collector_cut[actor].extend([] if slow else [interval])
            elif start.fault == "pause" and target != "postgres":
                self._paused[target].append(interval)
            elif self._loses_replies(start.fault, target, plan):
                self._replies_lost[actor].append(interval)

    def _loses_replies(self, fault: str, target: str, plan: dict[str, Any]) -> bool:
        if target == "postgres":
            return fault in _POSTGRES
        if not target.endswith("->postgres"):
            return False
        return fault in _LOSES_REPLIES or 2 * _milliseconds(plan) >= 1000 * self._statement


def _milliseconds(plan: dict[str, Any]) -> int:
    return int(plan.get("attributes", {}).get("latency", 0))


def shared(reasons: Iterable[str | None]) -> str | None:
    """Return the first exemption if every process has one; None if any process has none."""
    found = list(_until_missing(reasons))
    return found[0] if found and None not in found else None


def _until_missing(reasons: Iterable[str | None]) -> Iterator[str | None]:
    for reason in reasons:
        yield reason
        if reason is None:
            return
