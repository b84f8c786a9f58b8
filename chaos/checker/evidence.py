"""What the evidence of an observed fault must contain, by kind of fault, target and arena.

An injection counts as observed only if its record ``felt`` has this evidence about each of its
targets, and the other records of the run do not contradict it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from chaos.history.history import History
from chaos.history.records import ArenaName, Fault
from chaos.scenario.faults import FaultSpec
from chaos.scenario.scenario import Scenario
from chaos.scenario.vocabulary import FAULTS, TargetKind

Evidence = Mapping[str, Any]

# A duration may be measured this much shorter than planned.
LEAST_SHARE = 0.9
# How far a moved clock may be from where it should be.
_CLOCK_SECONDS = 1.0
# A statement that was sent before its process stopped ends within its timeout and this.
_LATE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Proof:
    """The values that evidence must have, and whether they show the fault."""

    needs: tuple[str, ...]
    shows: Callable[[FaultSpec, Evidence], bool]

    def objection(self, plan: FaultSpec, evidence: Evidence) -> str:
        """Return why the evidence proves nothing; "" if it does."""
        if missing := [name for name in self.needs if name not in evidence]:
            return f"without {', '.join(missing)}"
        try:
            shown = self.shows(plan, evidence)
        except (TypeError, ValueError):
            shown = False
        if shown:
            return ""
        return "not shown by " + ", ".join(f"{name} {evidence[name]}" for name in self.needs)


def _counted(name: str) -> Proof:
    """Require that a number of things was hit."""
    return Proof((name,), lambda _, seen: seen[name] > 0)


def _ended(code: int) -> Proof:
    def shows(_: FaultSpec, seen: Evidence) -> bool:
        is_worker = str(seen["actor"]).startswith("worker-")
        new = seen.get("replaced_by")
        return seen["exit"] == code and not (is_worker and new in {None, seen.get("incarnation")})

    return Proof(("actor", "pid", "exit"), shows)


def _paused(plan: FaultSpec, seen: Evidence) -> bool:
    least = 0.0 if plan.until else LEAST_SHARE * (plan.for_seconds or 0.0)
    return seen["stopped"] is True and seen["held_seconds"] >= least


def _skewed(plan: FaultSpec, seen: Evidence) -> bool:
    after = seen["ahead_after"]
    moved = abs(seen["ahead"] - plan.attributes["seconds"]) < _CLOCK_SECONDS
    return moved and (after is None or abs(after) < _CLOCK_SECONDS)


_PROCESS = {
    "kill": _ended(-9),
    "terminate": _ended(0),
    "restart": _ended(0),
    "pause": Proof(("actor", "pid", "stopped", "held_seconds"), _paused),
    "skew": Proof(("actor", "pid", "ahead", "ahead_after"), _skewed),
}

# Where the server of the simulation differs from real ones, it has an entry in both tables.
_SERVER = {
    "exhaust": _counted("connections"),
    "lock_rows": Proof(("rows", "waited"), lambda _, seen: seen["rows"] > 0 and seen["waited"] > 0),
    "terminate_backends": _counted("backends"),
    "flush": _counted("keys"),
    "refuse_writes": _counted("refused"),
    "demote": Proof(("readonly", "moved"), lambda _, seen: seen["readonly"] > 0 and seen["moved"]),
    "client_kill": _counted("connections"),
}
_NODE_REPLACED = Proof(("replaced",), lambda _, seen: seen["replaced"] is True)
_SIMULATED_SERVER = _SERVER | {
    "kill": _NODE_REPLACED,
    "restart": _NODE_REPLACED,
    "restart_empty": _NODE_REPLACED,
    "pause": Proof(("statements_meanwhile",), lambda _, seen: seen["statements_meanwhile"] == 0),
}
_PROCESS_REPLACED = Proof(
    ("pid", "replaced_by"),
    lambda _, seen: None not in {seen["pid"], seen["replaced_by"]} != {seen["pid"]},
)
_REAL_SERVER = _SERVER | {
    "kill": _PROCESS_REPLACED,
    "restart": _PROCESS_REPLACED,
    "restart_empty": _PROCESS_REPLACED,
    "pause": Proof(
        ("processes", "stopped"), lambda _, seen: 0 < seen["processes"] == seen["stopped"]
    ),
}

_SWALLOWED = Proof(
    ("swallowed", "opened", "left"), lambda _, seen: seen["swallowed"] > 0 and seen["opened"] > 0
)
_CLOSING = frozenset({"down", "timeout", "reset_peer", "limit_data"})
_EDGE_KINDS = tuple(name for name, kind in FAULTS.items() if TargetKind.EDGE in kind.target_kinds)


def is_saturated(plan: FaultSpec, passed: int, seconds: float, connections: int) -> bool:
    """Return whether as many bytes passed as a limited rate lets through, and no more.

    A probe whose answer has one byte is hardly slower then. Each connection has the rate.
    """
    limit = plan.attributes.get("rate", 0) * 1000 * seconds
    return limit / 2 <= passed <= 1.2 * limit * connections


def _simulated_edge(plan: FaultSpec, seen: Evidence) -> bool:
    if plan.fault in _CLOSING:
        return bool(seen["closed"] or seen["refused"] or seen["dropped_messages"])
    return bool(seen["held_messages"] or seen["slowed_messages"])


def _real_edge(plan: FaultSpec, seen: Evidence) -> bool:
    """Closing faults close connections or leave a probe without answer; others delay a client."""
    if plan.fault in _CLOSING:
        return seen["connections_closed"] > 0 or not seen["probe_answered"]
    used = seen["bytes_sent"] > 0 or seen["bytes_released"] > 0
    ways = 2 if plan.stream == "both" else 1
    delay_ms = plan.attributes.get("latency", 0) * ways
    if plan.attributes.get("rate") == 0 or delay_ms > 1000 * seen["held_seconds"]:
        return used and not seen["probe_answered"]
    if plan.fault == "latency":
        return bool(used and seen["probe_ms"] >= LEAST_SHARE * delay_ms)
    passed = seen["bytes_sent" if plan.stream == "up" else "bytes_received"]
    saturated = is_saturated(plan, passed, seen["held_seconds"], seen["connections"])
    return bool(used and (saturated or seen["probe_ms"] >= 3 * seen["baseline_ms"]))


_EDGES = {
    ArenaName.SIMULATION: Proof(
        ("closed", "refused", "dropped_messages", "held_messages", "slowed_messages", "left"),
        _simulated_edge,
    )
}
_REAL_EDGE = Proof(
    (
        "baseline_ms",
        "probe_ms",
        "probe_answered",
        "bytes_sent",
        "bytes_received",
        "bytes_released",
        "connections",
        "connections_closed",
        "held_seconds",
        "left",
    ),
    _real_edge,
)


def proofs(arena: ArenaName) -> dict[tuple[TargetKind, str], Proof]:
    """Return what proves each fault, by kind of its targets and its name."""
    servers = _SIMULATED_SERVER if arena is ArenaName.SIMULATION else _REAL_SERVER
    edge = _EDGES.get(arena, _REAL_EDGE)
    return (
        {(TargetKind.PROCESS, name): proof for name, proof in _PROCESS.items()}
        | {(TargetKind.SERVER, name): proof for name, proof in servers.items()}
        | {(TargetKind.EDGE, name): edge for name in _EDGE_KINDS}
        | {(TargetKind.EDGE, "silent_drop"): _SWALLOWED}
    )


def evidence_doubts(
    history: History, scenario: Scenario, plan: FaultSpec, start: Fault, felt: Fault
) -> Iterator[str]:
    """Yield why an injection that was recorded as observed may not have happened as planned."""
    fault_id = felt.fault_id
    if wrong := _wrong_targets(scenario, plan, start):
        yield f"fault {fault_id} was injected into {wrong}"
    if felt.evidence.keys() != {*start.targets}:
        about = ", ".join(sorted(felt.evidence)) or "nothing"
        yield f"fault {fault_id} was injected into {', '.join(start.targets)}, observed at {about}"
        return
    proof = proofs(history.run.arena)[plan.target_kind, plan.fault]
    for target, evidence in felt.evidence.items():
        objection = proof.objection(plan, evidence)
        objection = objection or "".join(
            _contradiction(history, scenario, plan, (start, felt), target)[:1]
        )
        if objection:
            yield f"{plan.fault} of {target} ({fault_id}) was recorded as observed, {objection}"


def _wrong_targets(scenario: Scenario, plan: FaultSpec, start: Fault) -> str:
    """Return the targets if they are not as many as planned, or not of those planned."""
    candidates = plan.candidates(scenario.topology)
    count = len({*start.targets})
    right = start.fault == plan.fault and {*candidates} >= {*start.targets} and count
    # Of processes, only those that run are hit.
    exact = plan.target_kind is not TargetKind.PROCESS
    due = plan.pick or len(candidates)
    if right and count == len(start.targets) and (count == due or (not exact and count < due)):
        return ""
    return (
        f"{start.fault} {', '.join(start.targets) or 'nothing'}, planned was {plan.fault} of {due}"
    )


def _contradiction(
    history: History, scenario: Scenario, plan: FaultSpec, records: tuple[Fault, Fault], target: str
) -> list[str]:
    """Return what other records say against the evidence about one target."""
    start, felt = records
    evidence: Evidence = felt.evidence[target]
    if plan.target_kind is TargetKind.EDGE:
        return list(_left(history, start, felt, target))
    if plan.target_kind is TargetKind.SERVER:
        return []
    if evidence.get("actor") != target:
        return [f"but at {evidence.get('actor')}"]
    if plan.fault in {"kill", "terminate", "restart"}:
        ends = ((end.pid, end.code) for end in history.exits.get(target, ()))
        known = "drained" not in history.phases or (evidence["pid"], evidence["exit"]) in ends
        return [] if known else [f"but no such exit of its process {evidence['pid']} is recorded"]
    return list(_acted(history, scenario, start, felt, target)) if plan.fault == "pause" else []


def _left(history: History, start: Fault, felt: Fault, edge: str) -> Iterator[str]:
    """Yield the toxics that were left on an edge and belong to no other fault of that time."""
    others = {
        records[0].fault
        for fault_id, records in history.faults.items()
        if fault_id != felt.fault_id
        and edge in records[0].targets
        and records[0].at <= felt.at
        and all(record.at >= start.at for record in records if record.type == "end")
    }
    left = [toxic for toxic in felt.evidence[edge]["left"] if toxic.split()[0] not in others]
    if left:
        yield f"but not removed: {', '.join(left)}"


def _acted(
    history: History, scenario: Scenario, start: Fault, felt: Fault, target: str
) -> Iterator[str]:
    """Yield what a paused process did in the time in which it was certainly stopped.

    What it had sent before may still have been committed until the statement timeout.
    """
    evidence: Evidence = felt.evidence[target]
    late = scenario.settings().statement_timeout_seconds + _LATE_SECONDS
    since, until = felt.at - evidence["held_seconds"] + late, start.at + evidence["held_seconds"]
    role = target.partition("-")[0]
    actor = f"{role}:{evidence.get('incarnation') if role == 'worker' else target}"
    for events in history.events.values():
        for event in events:
            if event.actor == actor and since < history.seconds(event.at) < until:
                yield f"but {event.reason} at {history.seconds(event.at):.2f} s is by it"
