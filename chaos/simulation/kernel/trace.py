"""The steps of a simulated run: always as a digest, on request as a list of entries.

The digest covers what every node did, every byte on the wire and every result of a server: two
runs with the same digest behaved identically. The steps alone would miss a race inside Postgres
that only changes an answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

EntryKind = Literal["wire", "sql", "redis", "node", "fault"]


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a trace. ``at``: virtual seconds; ``who``: a node or an edge."""

    at: float
    kind: EntryKind
    who: str
    what: str


class Trace:
    """The trace of a run. ``clock``: virtual seconds; ``keep``: also keep the entries."""

    def __init__(self, clock: Callable[[], float], *, keep: bool = False) -> None:
        self._clock = clock
        self._keep = keep
        self._hash = hashlib.blake2b(digest_size=16)
        self.entries: list[Entry] = []

    def note(self, kind: EntryKind, who: str, what: str, data: bytes = b"") -> None:
        """Add an entry. ``data`` goes into the digest only and must be the same in every run."""
        at = self._clock()
        self._hash.update(f"{at:.6f} {kind} {who} {what}\n".encode())
        if data:
            self._hash.update(data)
        if self._keep:
            self.entries.append(Entry(at, kind, who, what))

    def step(self, who: str, what: str) -> None:
        """Add a plain step to the digest only; most of a run consists of these."""
        self._hash.update(f"{self._clock():.6f} {who} {what}\n".encode())

    @property
    def digest(self) -> str:
        """Return the digest of everything so far, in hexadecimal."""
        return self._hash.hexdigest()
