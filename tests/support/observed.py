"""Evidence of faults as real machines record it (``chaos.checker.evidence``)."""

from __future__ import annotations

from typing import Any

from chaos.history.records import Exit

PID = 4711


def evidence(fault: str, target: str, held: float, **changed: Any) -> dict[str, Any]:
    """Return what shows this fault of one target, which lasted ``held`` seconds."""
    if "->" in target:
        return _of_edge(held) | changed
    if target in {"postgres", "redis"}:
        return _of_server(fault) | changed
    return _of_process(fault, target, held) | changed


def process_end(fault: str, target: str, at: float) -> Exit | None:
    """Return the exit that belongs to a fault of a process; None if the fault does not end it."""
    if fault not in {"kill", "terminate", "restart"} or "-" not in target or ">" in target:
        return None
    return Exit(actor=target, pid=PID, code=_code(fault), at=at, planned=True)


def _code(fault: str) -> int:
    return -9 if fault == "kill" else 0


def _of_process(fault: str, target: str, held: float) -> dict[str, Any]:
    found: dict[str, Any] = {"actor": target, "pid": PID}
    match fault:
        case "pause":
            found |= {"stopped": True, "held_seconds": held}
        case "skew":
            found |= {"ahead": 40.0, "ahead_after": 0.0}
        case _:
            found["exit"] = _code(fault)
    if target.startswith("worker-"):
        found |= {"incarnation": f"first {target}", "replaced_by": f"second {target}"}
    return found


_OF_SERVERS: dict[str, dict[str, Any]] = {
    "pause": {"processes": 3, "stopped": 3},
    "flush": {"keys": 3},
    "refuse_writes": {"refused": 3},
    "demote": {"readonly": 3, "moved": True},
    "lock_rows": {"rows": 3, "waited": 3},
    "terminate_backends": {"backends": 3},
    "exhaust": {"connections": 3},
    "client_kill": {"connections": 3},
}


def _of_server(fault: str) -> dict[str, Any]:
    return _OF_SERVERS.get(fault, {"pid": PID, "replaced_by": PID + 1})


def _of_edge(held: float) -> dict[str, Any]:
    """Return what an edge measures that delays, and has closed connections."""
    return {
        "baseline_ms": 1.0,
        "probe_ms": round(held * 1000, 1),
        "probe_answered": False,
        "bytes_sent": 100,
        "bytes_received": 0,
        "bytes_released": 10,
        "connections": 2,
        "connections_closed": 2,
        "swallowed": 100,
        "opened": 2,
        "held_seconds": held,
        "left": [],
    }
