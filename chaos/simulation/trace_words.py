"""Each entry of a trace in words; "" for what changed nothing, and need not be told."""

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
        "signal 15": "is told to stop (SIGTERM)",
    }
)
_UNANSWERED: Mapping[str, str] = MappingProxyType(
    {
        "waits for a lock": "waits for a lock",
        "cancel request": "asks Postgres to cancel what it waits for",
    }
)
# Statements that are told though they changed no task.
_FRUITLESS: Mapping[str, str] = MappingProxyType(
    {
        "claim": "claim: nothing to claim, the hint was old",
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
    """A statement that was answered. ``outcome``: its command tag, or the SQLSTATE."""

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
    """The last statement of a note of the Postgres bridge; None for notes that are no answer."""
    found = _STATEMENT.fullmatch(entry.what.rpartition(", ")[2]) if entry.kind == "sql" else None
    if found is None:
        return None
    return StatementAnswer(entry.at, entry.who, found["name"], found["outcome"], found["how"])


def published(entry: Entry) -> tuple[str, int] | None:
    """Task id and epoch of the hint that this command published."""
    found = _HINT.fullmatch(entry.what) if entry.kind == "redis" else None
    return (found["task"], int(found["epoch"])) if found else None


def words(entry: Entry) -> str:
    """What it says by itself, in one line."""
    say: Callable[[str], str] = _KINDS.get(entry.kind, str)
    said = answer(entry)
    return _statement(said) if said is not None else say(entry.what)


def _statement(said: StatementAnswer) -> str:
    if said.failed:
        return f"{said.name} failed: SQLSTATE {said.outcome}{said.how}"
    if said.name == "heartbeat" and not said.rows:
        return "heartbeat: no lease any more, it was marked dead"
    if said.name == "expire_hints" and said.rows:
        return f"takes all hints as lost: {said.rows} will be published again"
    if said.name in _FRUITLESS:
        return _FRUITLESS[said.name] + said.how
    return f"{said.name}: {said.outcome}{said.how}" if said.waited else ""


def _redis(what: str) -> str:
    """Commands that hand hints over, fail, or tell that Redis has forgotten."""
    command, _, reply = what.partition(" -> ")
    if reply.startswith("error"):
        return f"{command}: {reply}"
    if command.startswith("XREADGROUP") and reply == "ok":
        return "takes hints"
    if command.startswith("GET") and command.endswith(":generation") and reply == "nil":
        return "finds Redis empty: its generation is gone"
    if command.startswith(("SET ", "XGROUP", "FLUSHALL")) and reply:
        return f"{command}: {reply}"
    return ""


def _wire(what: str) -> str:
    """Only what is no ordinary message."""
    return f"the message {what}" if what.endswith("lost") else _WIRE.get(what, "")


def _node(what: str) -> str:
    return _NODE.get(what, what.replace("exited with", "exits with"))


def _fault(what: str) -> str:
    """The strikes themselves are told by the history."""
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
