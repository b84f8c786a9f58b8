"""The conditions that a topology may ask for: states of servers that hold for the whole run.

What happens at an instant is a fault instead (``vocabulary.FAULTS``), so that it has a time, a
target and evidence of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from chaos.scenario.validation_errors import did_you_mean


@dataclass(frozen=True, slots=True)
class ConditionKind:
    """One condition: its effect, and why it cannot be simulated ("": it can)."""

    effect: str
    unsimulated: str = ""


# Lock waits longer than this are cancelled; statements of a healthy stack are much shorter.
STATEMENT_TIMEOUT_MS = 500
# How long roles wait for their servers once all of them say that they do.
SLOW_START_SECONDS = 2.0
# Server connections of PgBouncer, for all roles together.
POOLED_CONNECTIONS = 5
REDIS_IDLE_SECONDS = 1
# The user of system/README.md.
REDIS_USER = "holdfast"
REDIS_RULES = (
    "on >PASSWORD ~holdfast:* -@all +xadd +xread +xreadgroup +xack +xdel +xrange +xpending"
    " +xgroup|create +xgroup|delconsumer +xinfo|consumers +xinfo|groups +xlen +del +set +watch"
    " +unwatch +multi +exec +client|setinfo"
)

CONDITIONS: dict[str, ConditionKind] = {
    "serializable": ConditionKind("the database's default isolation level is serializable"),
    "statement_timeout": ConditionKind(
        f"Postgres cancels statements after {STATEMENT_TIMEOUT_MS} ms (57014)"
    ),
    "old_snapshot": ConditionKind(
        "a transaction of another application stays open, so that no dead row can be removed",
        "an old snapshot only makes statements slow, and no statement takes virtual time",
    ),
    "pgbouncer": ConditionKind(
        f"PgBouncer in transaction mode, with {POOLED_CONNECTIONS} connections to Postgres",
        "PgBouncer has clocks and sockets of its own",
    ),
    "redis_idle_timeout": ConditionKind(
        f"Redis closes connections that are idle for {REDIS_IDLE_SECONDS} s",
        "Redis measures idle times with its own clock, which is real",
    ),
    "redis_acl": ConditionKind("the roles connect to Redis as the user of system/README.md"),
    "slow_start": ConditionKind("Postgres and Redis come up after the roles, which wait"),
}

# What else an environment may do, at an instant: the faults that do it.
_EVENTS = {
    "redis_oom": "refuse_writes of redis",
    "redis_readonly": "demote of redis",
    "silent_drop": "silent_drop of edges",
}


def require_condition(name: str) -> None:
    """Raise ValueError unless ``name`` is a condition; name the fault that is meant instead."""
    if name in _EVENTS:
        raise ValueError(f"{name}: it happens at an instant: plan the fault {_EVENTS[name]}")
    if name not in CONDITIONS:
        raise ValueError(f"{name}: no such condition{did_you_mean(name, CONDITIONS)}")
