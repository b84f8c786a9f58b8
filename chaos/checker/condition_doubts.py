"""Doubt that the environment of a run was the one that its scenario asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from chaos.checker.evidence import LEAST_SHARE
from chaos.history.conditions import Condition
from chaos.history.history import History
from chaos.scenario.conditions import (
    POOLED_CONNECTIONS,
    REDIS_IDLE_SECONDS,
    SLOW_START_SECONDS,
    STATEMENT_TIMEOUT_MS,
)
from chaos.scenario.scenario import Scenario

Evidence = Mapping[str, Any]

# How much later than asked a real server may act.
_LATE_SECONDS = 5.0
_WAITED = LEAST_SHARE * SLOW_START_SECONDS


def _cancelled(seen: Evidence) -> bool:
    """A statement that waited for a lock was cancelled, and not before the limit."""
    least = STATEMENT_TIMEOUT_MS / 1000
    return bool(seen["sqlstate"] == "57014") and least <= seen["seconds"] < least + _LATE_SECONDS


def _pooled(seen: Evidence) -> bool:
    """Many clients shared few sessions, and there was no other session."""
    shared = 0 < seen["backends"] <= POOLED_CONNECTIONS < seen["clients"]
    return bool(shared and 0 < seen["sessions"] <= POOLED_CONNECTIONS)


def _closed_when_idle(seen: Evidence) -> bool:
    least = LEAST_SHARE * REDIS_IDLE_SECONDS
    return bool(least <= seen["seconds"] < REDIS_IDLE_SECONDS + _LATE_SECONDS)


_SHOWN: Mapping[str, Callable[[Evidence], bool]] = {
    "serializable": lambda seen: seen["default_transaction_isolation"] == "serializable",
    "statement_timeout": _cancelled,
    "pgbouncer": _pooled,
    "old_snapshot": lambda seen: seen["transactions"] > 0,
    "redis_idle_timeout": _closed_when_idle,
    "redis_acl": lambda seen: seen["user"] > 0 and seen["others"] == 0,
    "slow_start": lambda seen: 0 < seen["roles"] == seen["waiting"] and seen["seconds"] >= _WAITED,
}


def condition_doubts(history: History, scenario: Scenario) -> Iterator[str]:
    """Yield each condition that was not shown to be in force, and each that was not asked for."""
    asked = scenario.topology.environment
    for name in asked:
        found = [each for each in history.conditions if each.name == name]
        if not found:
            yield f"topology.environment: no evidence that {name} was in force"
        for condition in found:
            if not _is_shown(condition):
                said = ", ".join(f"{key} {value}" for key, value in condition.evidence.items())
                yield f"topology.environment: {name} is not shown by {said or 'nothing'}"
    for condition in history.conditions:
        if condition.name not in asked:
            yield f"topology.environment: {condition.name} was in force, but is not asked for"


def _is_shown(condition: Condition) -> bool:
    try:
        return _SHOWN[condition.name](condition.evidence)
    except (KeyError, TypeError):
        return False
