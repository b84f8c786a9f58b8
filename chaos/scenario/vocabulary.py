"""Defines the names a scenario may use: faults, servers, events, invariants, ``sometimes``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from holdfast.model.lifecycle import Reason


class TargetKind(StrEnum):
    """The kind of target a fault is injected into."""

    EDGE = "an edge (worker-1->redis)"
    PROCESS = "a process (worker-1)"
    SERVER = "a server (postgres, redis)"


SERVERS = ("postgres", "redis")


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One fault: its kinds of targets, its required attributes (integers), and its effect."""

    target_kinds: tuple[TargetKind, ...]
    attributes: tuple[str, ...]
    effect: str
    servers: frozenset[str] = frozenset()


_EDGE = (TargetKind.EDGE,)
_PROCESS = (TargetKind.PROCESS,)
_SERVER = (TargetKind.SERVER,)
_ANY = (TargetKind.PROCESS, TargetKind.SERVER)
_BOTH = frozenset(SERVERS)

# Edge faults have Toxiproxy's own names, attributes and meaning (v2.12), but for silent_drop.
FAULTS: dict[str, FaultKind] = {
    "latency": FaultKind(
        _EDGE, ("latency",), "delays by latency ms; on removal, held data arrives immediately"
    ),
    "bandwidth": FaultKind(
        _EDGE, ("rate",), "limits to rate KB/s; 0 stalls; removal loses nothing"
    ),
    "timeout": FaultKind(
        _EDGE, ("timeout",), "drops data, closes after timeout ms (0: never); removal closes"
    ),
    "reset_peer": FaultKind(_EDGE, ("timeout",), "resets new connections after timeout ms"),
    "slicer": FaultKind(
        _EDGE, ("average_size", "size_variation", "delay"), "cuts data into pieces, delay us apart"
    ),
    "slow_close": FaultKind(_EDGE, ("delay",), "delays the close by delay ms"),
    "limit_data": FaultKind(_EDGE, ("bytes",), "closes after that many bytes"),
    "down": FaultKind(_EDGE, (), "refuses connections and closes open ones"),
    "silent_drop": FaultKind(
        _EDGE, (), "open connections swallow everything, for good and unnoticed; new ones work"
    ),
    "kill": FaultKind(_ANY, (), "SIGKILL; no cleanup runs", _BOTH),
    "pause": FaultKind(
        _ANY, (), "SIGSTOP (of a server: its whole process tree), later SIGCONT", _BOTH
    ),
    "terminate": FaultKind(_PROCESS, (), "SIGTERM: a graceful stop"),
    "restart": FaultKind(_ANY, (), "a graceful stop and an immediate restart", _BOTH),
    "skew": FaultKind(
        _PROCESS, ("seconds",), "its wall clock jumps by that many seconds, and back"
    ),
    "exhaust": FaultKind(_SERVER, (), "takes every free connection", frozenset({"postgres"})),
    "lock_rows": FaultKind(
        _SERVER,
        (),
        "another session locks the rows of all QUEUED tasks: who wants them waits",
        frozenset({"postgres"}),
    ),
    "terminate_backends": FaultKind(
        _SERVER, (), "pg_terminate_backend of all sessions", frozenset({"postgres"})
    ),
    "flush": FaultKind(_SERVER, (), "FLUSHALL", frozenset({"redis"})),
    "refuse_writes": FaultKind(
        _SERVER, (), "out of memory: refuses writes, answers reads", frozenset({"redis"})
    ),
    "demote": FaultKind(
        _SERVER,
        (),
        "an empty server takes its address; it keeps its connections and refuses writes, for good",
        frozenset({"redis"}),
    ),
    "restart_empty": FaultKind(
        _SERVER, (), "kill and restart without its data", frozenset({"redis"})
    ),
    "client_kill": FaultKind(_SERVER, (), "CLIENT KILL of all connections", frozenset({"redis"})),
}

# Events that a fault may wait for: the reasons of transitions.
EVENTS: dict[str, Reason] = {reason.name.lower(): reason for reason in Reason}

# The invariants that a scenario may name; ``chaos.checker.invariants`` declares what each requires.
SAFETY = (
    "S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10", "S11", "S12",
    "S13", "S15", "S16", "S17", "S18", "S19", "S20", "S21", "S22", "S23", "S24", "S25",
    "S26", "S27", "S28", "S29",
)  # fmt: skip
LIVENESS = ("L1", "L2", "L4", "L5")

# These hold under any fault; whether the other safety invariants apply depends on the scenario.
UNCONDITIONAL = (
    *SAFETY[:12], "S18", "S19", "S20", "S21", "S22", "S23", "S24", "S25", "S27", "S28", "S29",
)  # fmt: skip

# What a scenario may require to be seen; ``chaos.checker.sometimes`` defines how each is counted.
SOMETIMES = (
    "stale_write_refused",
    "duplicate_suppressed",
    "submit_repeated",
    "secret_rotated",
    "submit_mismatched",
    "invalid_refused",
    "outcome_unknown",
    "nothing_done",
    "statement_outcome_unknown",
    "lease_lost",
    "attempt_failed",
    "hint_republished",
    "handed_back",
    "unbegun_reclaimed",
    "worker_replaced",
    "cancelled",
    "cancel_too_late",
    "cancel_requested",
    "poisoned",
    "claim_unknown",
    "finish_unknown",
    "submit_unknown",
    "amnesia_healed",
    "redis_given_up",
    "stale_hint_delivered",
    "statement_cancelled",
    "serialization_failed",
)
