"""A batch of a client: its messages up to the next Flush, Sync or simple query."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.simulation.postgres import messages
from chaos.simulation.postgres.messages import Message

_ENDS = frozenset(b"HSQFX")
_WRITES = re.compile(
    r"\s*(?:INSERT|UPDATE|DELETE|MERGE|WITH\b.*\b(?:INSERT|UPDATE|DELETE|MERGE))\b",
    re.IGNORECASE | re.DOTALL,
)
_REFUSED = re.compile(r"\s*(COPY|LISTEN|PREPARE\s+TRANSACTION)\b", re.IGNORECASE)


@dataclass(slots=True)
class Batch:
    """Messages for the backend, and what completes each of their replies.

    ``prepared`` and ``executed``: names of statements; ``refused``: commands that are not
    simulated. ``whole``: one writing statement from one Sync to the next, nothing else.
    """

    data: bytes = b""
    kinds: list[bytes] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    simple: bool = False
    whole: bool = False
    over: bool = False
    """Whether the client ends the session."""

    def outcomes(self, replies: list[Message]) -> list[tuple[str, bytes]]:
        """Return name and last reply of each statement that was executed or failed."""
        names = self.executed or self.prepared
        found: list[tuple[str, bytes]] = []
        for kind, message in replies:
            if kind not in messages.OUTCOMES:
                continue
            if kind == ord("E") and len(found) == len(names) and not self.simple:
                found.pop()  # executed, then the commit failed
            found.append((names[0 if self.simple else len(found)], message))
        return found


class Batches:
    """Splits the bytes of one client into batches. ``name`` returns the name of an SQL text."""

    def __init__(self, name: Callable[[str], str]) -> None:
        self._name = name
        self._inbox = bytearray()
        self._arrived: deque[Message] = deque()
        self._messages: list[Message] = []  # messages of the incomplete batch
        self._texts: dict[str, str] = {}  # of prepared statements
        self._portals: dict[str, str] = {}
        self._executed_since_sync = 0

    def feed(self, data: bytes) -> None:
        """Append received bytes."""
        self._inbox += data

    def startup(self) -> tuple[int, bytes] | None:
        """Return the first message of a connection, which has no type: its code and its bytes."""
        size = int.from_bytes(self._inbox[:4], "big")
        if len(self._inbox) < max(size, 8):
            return None
        message = bytes(self._inbox[:size])
        del self._inbox[:size]
        return int.from_bytes(message[4:8], "big"), message

    def next(self, *, skipping: bool) -> Batch | None:
        """Return the next complete batch. ``skipping``: after an error, ignore all until Sync."""
        self._arrived.extend(messages.split(self._inbox))
        while self._arrived:
            message = self._arrived.popleft()
            self._messages.append(message)
            if message[0] in _ENDS:
                taken, self._messages = self._messages, []
                return self._batch(taken, skipping=skipping)
        return None

    def _batch(self, taken: list[Message], *, skipping: bool) -> Batch:
        batch = Batch()
        parts = []
        texts: list[str] = []
        for kind, given in taken:
            message = _refuse(kind, given, batch)
            parts.append(message)
            if skipping and kind != ord("S"):
                continue
            skipping = False
            if kind in messages.COMPLETE:
                batch.kinds.append(messages.COMPLETE[kind])
            self._follow(kind, message, batch, texts)
        batch.data = b"".join(parts)
        ending = taken[-1][0]
        batch.over = ending == ord("X")
        alone = self._executed_since_sync == len(batch.executed) == 1
        batch.whole = ending == ord("S") and alone and bool(_WRITES.match(texts[0]))
        if ending in b"SQ":
            self._executed_since_sync = 0
        return batch

    def _follow(self, kind: int, message: bytes, batch: Batch, texts: list[str]) -> None:
        match chr(kind):
            case "P":
                statement, text = messages.strings(message, 2)
                self._texts[statement] = text
                batch.prepared.append(self._name(text))
            case "B":
                portal, statement = messages.strings(message, 2)
                self._portals[portal] = self._texts.get(statement, "")
            case "E":
                (portal,) = messages.strings(message, 1)
                texts.append(self._portals.get(portal, ""))
                batch.executed.append(self._name(texts[-1]))
                self._executed_since_sync += 1
            case "Q":
                batch.simple = True
                batch.executed.append(self._name(messages.strings(message, 1)[0]))
            case _:
                pass


def _refuse(kind: int, message: bytes, batch: Batch) -> bytes:
    """Return the batch, or one that fails with a clear error if it has a refused command."""
    if kind not in b"PQ":
        return message
    words = messages.strings(message, 2)
    text = words[0] if kind == ord("Q") else words[1]
    found = _REFUSED.match(text)
    if not found:
        return message
    batch.refused.append(found[1].upper())
    refusal = f"SELECT sim.refuse('{batch.refused[-1]}')"
    if kind == ord("Q"):
        return messages.query(refusal)
    return messages.frame(b"P", words[0].encode(), b"\0", refusal.encode(), b"\0\0\0")
