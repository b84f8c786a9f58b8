"""All invariants by name.

S14 (the same seed gives the same run) compares runs: it is a test of the simulated arena.
L3 (fairness) is measured by the load tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from chaos.history import History
from chaos.invariants import clients, effects, liveness, log, overload, traces
from chaos.invariants.violation import Violation

Invariant = Callable[[History], list[Violation]]

CHECKS: Mapping[str, Invariant] = MappingProxyType(
    {
        "S1": effects.effects_at_most_once,
        "S2": clients.effects_justified,
        "S3": log.not_early,
        "S4": effects.cancel_is_final,
        "S5": clients.nothing_lost,
        "S6": log.legal_transitions,
        "S7": log.attempts_counted,
        "S8": log.epochs_fence,
        "S9": log.single_owner,
        "S10": clients.create_is_idempotent,
        "S11": effects.effects_match_states,
        "S12": clients.read_your_ack,
        "S13": traces.traces_complete,
        "S15": log.dead_letter_exact,
        "S16": log.no_attempt_wasted,
        "S17": overload.queue_bounded,
        "L1": liveness.done_in_time,
        "L2": liveness.progress_under_faults,
        "L4": liveness.on_time,
        "L5": overload.capacity_kept,
    }
)
