"""The closed vocabularies of scenarios: faults, servers, events, invariants, ``sometimes``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from system.lifecycle import Reason


class FaultSort(StrEnum):
    """What a fault is injected into."""

    EDGE = "an edge (worker-1->redis)"
    PROCESS = "a process (worker-1)"
    SERVER = "a server (postgres, redis)"


SERVERS = ("postgres", "redis")


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One fault: the sort of its targets, its attributes (integers), and what it does."""

    sorts: tuple[FaultSort, ...]
    attributes: tuple[str, ...]
    effect: str
    servers: frozenset[str] = frozenset()


_EDGE = (FaultSort.EDGE,)
_PROCESS = (FaultSort.PROCESS,)
_SERVER = (FaultSort.SERVER,)
_ANY = (FaultSort.PROCESS, FaultSort.SERVER)
_BOTH = frozenset(SERVERS)

# Edge faults have Toxiproxy's own names, attributes and meaning (v2.12).
FAULTS: dict[str, FaultKind] = {
    "latency": FaultKind(
        _EDGE, ("latency",), "delays by this many ms; on removal what is held arrives at once"
    ),
    "bandwidth": FaultKind(_EDGE, ("rate",), "KB/s; 0 stalls, and loses nothing on removal"),
    "timeout": FaultKind(
        _EDGE, ("timeout",), "drops data, closes after this many ms (0: never); removal closes"
    ),
    "reset_peer": FaultKind(_EDGE, ("timeout",), "RST after this many ms for new connections"),
    "slicer": FaultKind(
        _EDGE, ("average_size", "size_variation", "delay"), "cuts in pieces; delay in us"
    ),
    "slow_close": FaultKind(_EDGE, ("delay",), "delays the close by this many ms"),
    "limit_data": FaultKind(_EDGE, ("bytes",), "closes after this many bytes"),
    "down": FaultKind(_EDGE, (), "refuses connections, closes the open ones"),
    "kill": FaultKind(_ANY, (), "SIGKILL; no finally runs", _BOTH),
    "pause": FaultKind(_ANY, (), "SIGSTOP (of a server: all of it), later SIGCONT", _BOTH),
    "terminate": FaultKind(_PROCESS, (), "SIGTERM: a graceful stop"),
    "restart": FaultKind(_ANY, (), "a graceful stop, and started again at once", _BOTH),
    "skew": FaultKind(_PROCESS, ("seconds",), "its wall clock jumps by this many, and back"),
    "exhaust": FaultKind(_SERVER, (), "every free connection is taken", frozenset({"postgres"})),
    "terminate_backends": FaultKind(
        _SERVER, (), "pg_terminate_backend of all sessions", frozenset({"postgres"})
    ),
    "flush": FaultKind(_SERVER, (), "FLUSHALL", frozenset({"redis"})),
    "restart_empty": FaultKind(
        _SERVER, (), "killed and started again without its data", frozenset({"redis"})
    ),
    "client_kill": FaultKind(_SERVER, (), "CLIENT KILL of all connections", frozenset({"redis"})),
}

# Events that a fault may wait for: the reasons of transitions.
EVENTS: dict[str, Reason] = {reason.name.lower(): reason for reason in Reason}

# One sentence each; the laws themselves are in chaos/invariants. S14 (the same seed gives the same
# run) compares runs, and is a test.
INVARIANTS: dict[str, str] = {
    "S1": "no effect is applied twice",
    "S2": "every task and effect goes back to a submit that may have happened",
    "S3": "no attempt starts before the task is due, by the database's clock",
    "S4": "what a cancel was answered comes true, and a cancelled task has no effect",
    "S5": "no accepted task is lost",
    "S6": "every transition is legal, logged, and in an unbroken order",
    "S7": "attempts, losses and hand backs are counted exactly and limits are kept",
    "S8": "the epoch fences: it grows exactly with ownership, and stale writes are refused",
    "S9": "an attempt has one owner, and only it (or a scheduler) ends it; the dead claim nothing",
    "S10": "one idempotency key makes one task, another payload under it is refused",
    "S11": "SUCCEEDED has exactly one effect; FAILED and CANCELLED have none",
    "S12": "an accepted task can be read at once and never disappears",
    "S13": "the trace of every task is complete: each attempt has one span, nothing leads nowhere",
    "S15": "the dead letter holds exactly the tasks that were made to fail",
    "S16": "no attempt is wasted: none is lost, none times out",
    "S17": "no more tasks are QUEUED at a time than the bound of the queue allows",
    "L1": "every task is terminal within T after it was due and everything healed",
    "L2": "while faults last, tasks still end",
    "L4": "without faults, every attempt starts on time",
    "L5": "what an overload left is worked off as fast as before (a share of that rate)",
}

# These hold under any faults; the other safety laws depend on the scenario.
UNCONDITIONAL = tuple(f"S{number}" for number in range(1, 13))

SOMETIMES: dict[str, str] = {
    "stale_write_refused": "the fence refused a write of a worker that had lost its lease",
    "duplicate_suppressed": "the sink got a call again and did not apply it again",
    "submit_repeated": "a submit under a used key was answered with the task already there",
    "submit_mismatched": "another payload under a used key was refused",
    "outcome_unknown": "a client operation ended unknown",
    "statement_outcome_unknown": "a role got no answer to a statement (seen by the arena)",
    "lease_lost": "an attempt was taken back from a worker",
    "attempt_failed": "an attempt failed and the task was tried again",
    "hint_republished": "a hint was published again",
    "handed_back": "a stopping worker gave an attempt back",
    "worker_replaced": "an actor came back as another incarnation",
    "cancelled": "a task was cancelled",
    "cancel_too_late": "a cancel was refused because the task had ended",
    "cancel_requested": "a running attempt was asked to stop",
    "poisoned": "a task went to the dead letter because workers died of it",
    "claim_unknown": "a committed claim was reported as unknown (seen by the arena)",
    "finish_unknown": "a committed finish was reported as unknown (seen by the arena)",
    "submit_unknown": "a committed submit was reported as unknown (seen by the arena)",
    "amnesia_healed": "a scheduler found Redis empty and published again (seen by the arena)",
    "redis_given_up": "a role gave up waiting for Redis and went on (seen by the arena)",
    "stale_hint_delivered": "a hint of an epoch gone by reached Redis late (seen by the arena)",
}
