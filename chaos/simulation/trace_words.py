"""Describe the entries of a trace in words; those that changed nothing get an empty text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from chaos.simulation.kernel.trace import Entry

_STATEMENT = re.compile(r"(?P<name>.+?) -> (?P<outcome>\S.*?)(?P<how>( \([a-z ]+\))*)")
_SQLSTATE = re.compile(r"(?=.*\d)[0-9A-Z]{5}")
_HINT = re.compile(r"XADD \S+:hints:\S+ (?P<task>\S+) (?P<epoch>\d+) -> ok")
_NODE: Mapping[str, str] = MappingProxyType(
    {
        "exited with -9": "KILLED",
        "paused": "PAUSED",
        "resumed": "RESUMED",
        "signal 15": "receives SIGTERM",
    }
)
_UNANSWERED: Mapping[str, str] = MappingProxyType(
    {
        "waits for a lock": "waits for a lock",
        "cancel request": "sends a cancel request to Postgres",
    }
)
# Statements that are shown although they changed no task.
_UNCHANGED: Mapping[str, str] = MappingProxyType(
    {
        "claim": "claim: nothing granted, the hint was stale",
        "finish": "finish: changed nothing",
        "release": "release: changed nothing",
        "COMMIT": "COMMIT",
        "ROLLBACK": "ROLLBACK",
    }
)
_WIRE: Mapping[str, str] = MappingProxyType(
    {"refused": "connection refused", "up RST": "reset", "down RST": "reset"}
)


@dataclass(frozen=True, slots=True)
class StatementAnswer:
    """An answered statement. ``outcome``: its command tag, or the SQLSTATE."""

    at: float
    who: str
    name: str
    outcome: str
    how: str

    @property
    def failed(self) -> bool:
        return _SQLSTATE.fullmatch(self.outcome) is not None

    @property
    def held(self) -> bool:
        """Whether its commit came later than its work."""
        return "commit held" in self.how

    @property
    def waited(self) -> bool:
        """Whether it waited for a lock."""
        return "waited for a lock" in self.how

    @property
    def rows(self) -> int:
        count = self.outcome.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0


def answer(entry: Entry) -> StatementAnswer | None:
    """Return the last statement of an entry of the Postgres bridge; None if it has no answer."""
    found = _STATEMENT.fullmatch(entry.what.rpartition(", ")[2]) if entry.kind == "sql" else None
    if found is None:
        return None
    return StatementAnswer(entry.at, entry.who, found["name"], found["outcome"], found["how"])


def published(entry: Entry) -> tuple[str, int] | None:
    """Return task id and epoch of the hint that the command published, if any."""
    found = _HINT.fullmatch(entry.what) if entry.kind == "redis" else None
    return (found["task"], int(found["epoch"])) if found else None


def describe(entry: Entry) -> str:
    """Describe the entry in one line."""
    describe_kind: Callable[[str], str] = _KINDS.get(entry.kind, str)
    statement = answer(entry)
    return _statement(statement) if statement is not None else describe_kind(entry.what)


def _statement(statement: StatementAnswer) -> str:
    if statement.failed:
        return f"{statement.name} failed: SQLSTATE {statement.outcome}{statement.how}"
    if statement.name == "heartbeat" and not statement.rows:
        return "heartbeat refused: marked dead"
    if statement.name == "expire_hints" and statement.rows:
        return f"expires hint deadlines: {statement.rows} hints will be republished"
    if statement.name in _UNCHANGED:
        return _UNCHANGED[statement.name] + statement.how
    return f"{statement.name}: {statement.outcome}{statement.how}" if statement.waited else ""


def _redis(what: str) -> str:
    """Describe commands that deliver hints, fail, or detect a hint loss."""
    command, _, reply = what.partition(" -> ")
    if reply.startswith("error"):
        return f"{command}: {reply}"
    if command.startswith("XREADGROUP") and reply == "ok":
        return "reads hints"
    if command.startswith("GET") and command.endswith(":generation") and reply == "nil":
        return "detects hint loss: the generation is missing"
    if command.startswith(("SET ", "XGROUP", "FLUSHALL")) and reply:
        return f"{command}: {reply}"
    return ""


def _wire(what: str) -> str:
    """Describe lost messages, resets and refused connections."""
    return f"message {what}" if what.endswith("lost") else _WIRE.get(what, "")


def _node(what: str) -> str:
    return _NODE.get(what, what.replace("exited with", "exits with"))


def _fault(what: str) -> str:
    """Describe changes of toxics; the history has the faults themselves."""
    return "" if what.endswith((" begins", " ends")) else what


_KINDS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "sql": lambda what: _UNANSWERED.get(what, ""),
        "redis": _redis,
        "wire": _wire,
        "node": _node,
        "fault": _fault,
    }
)
