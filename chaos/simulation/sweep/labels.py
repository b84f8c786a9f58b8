"""Name the messages of a run, stable under small changes of the code or the schedule.

``worker-1->postgres up claim #2``: edge, direction, the request, and its number among equal names
on the edge. A reply has the name of its request.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

import hiredis

from chaos.simulation.network.network import Message
from chaos.simulation.postgres import messages
from chaos.simulation.postgres.names import Names

_BODY = " body"
_ARROWS = {"upstream": "up", "downstream": "down"}
_FIRST_MESSAGES = {
    messages.CANCEL_REQUEST: "cancel request",
    messages.SSL_REQUEST: "ssl request",
    messages.GSS_REQUEST: "gss request",
}
_REQUEST_LINE = re.compile(rb"([A-Z]+) (\S+) HTTP/1")
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# A lock changes nothing; a COMMIT does.
_WRITES = re.compile(r"\b(?:INSERT|DELETE|MERGE|COMMIT|(?<!KEY )UPDATE)\b", re.IGNORECASE)
_READS_OF_REDIS = frozenset({"client", "hello", "auth", "select", "get", "scan", "xinfo", "xread"})
_READS_OF_HTTP = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Label:
    """The name of one message of a run.

    ``changes``: its request may change a table, a stream or the sink.
    """

    text: str
    changes: bool


@dataclass(slots=True)
class _Wire:
    """The state of one connection. ``texts``: its prepared statements."""

    name: str = ""
    changes: bool = False
    begun: bool = False
    texts: dict[str, str] = field(default_factory=dict)


class Labels:
    """Labels all messages of one run, in the order of their delivery. ``names``: of SQL texts."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._wires: dict[tuple[str, int], _Wire] = {}
        self._counts: Counter[str] = Counter()

    def of(self, message: Message) -> Label:
        """Return the label of the next message."""
        wire = self._wires.setdefault((message.edge, message.connection), _Wire())
        name = wire.name
        if message.stream == "upstream":
            server = message.edge.partition("->")[2]
            name, wire.changes = self._read(server, message.data, wire)
            wire.name = name.removesuffix(_BODY)
        stem = f"{message.edge} {_ARROWS[message.stream]} {name}"
        self._counts[stem] += 1
        return Label(f"{stem} #{self._counts[stem]}", wire.changes)

    def _read(self, server: str, data: bytes, wire: _Wire) -> tuple[str, bool]:
        if server == "postgres":
            return self._sql(data, wire)
        return _redis(data) if server == "redis" else _http(data, wire)

    def _sql(self, data: bytes, wire: _Wire) -> tuple[str, bool]:
        if not wire.begun:
            code = int.from_bytes(data[4:8], "big")
            # After the reply to a TLS request the client sends its first message again.
            wire.begun = code not in {messages.SSL_REQUEST, messages.GSS_REQUEST}
            return _FIRST_MESSAGES.get(code, "login"), False
        prepared: list[str] = []
        executed: list[str] = []
        for kind, each in messages.split(bytearray(data)):
            match chr(kind):
                case "P":
                    statement, text = messages.strings(each, 2)
                    wire.texts[statement] = text
                    prepared.append(text)
                case "B":
                    _, statement = messages.strings(each, 2)
                    executed.append(wire.texts.get(statement, ""))
                case "Q":
                    executed.append(messages.strings(each, 1)[0])
                case "X":
                    return "goodbye", False
                case _:
                    pass
        if executed:
            name = ", ".join(self._names.of(text) for text in executed)
            return name, any(_WRITES.search(text) for text in executed)
        names = ", ".join(self._names.of(text) for text in prepared)
        return (f"prepare {names}" if prepared else "sync"), False


def _redis(data: bytes) -> tuple[str, bool]:
    reader = hiredis.Reader()
    reader.feed(data)
    words: list[str] = []
    while (command := reader.gets()) is not False:
        words.append(command[0].decode(errors="replace").upper())
    commands = [word for word in words if word not in {"MULTI", "EXEC"}]
    changes = any(word.lower() not in _READS_OF_REDIS for word in commands)
    return " ".join(dict.fromkeys(commands)) or "nothing", changes


def _http(data: bytes, wire: _Wire) -> tuple[str, bool]:
    line = _REQUEST_LINE.match(data)
    if line is None:
        # The rest of a request takes the name of its first message.
        return f"{wire.name}{_BODY}", wire.changes
    method, path = line[1].decode(), line[2].decode(errors="replace")
    return f"{method} {_ID.sub('ID', path)}", method not in _READS_OF_HTTP
