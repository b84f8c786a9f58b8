"""A change of one span of a file: what an operator proposes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class SourceChange:
    """Replaces the bytes from ``start`` to ``end`` of a file by ``new``.

    ``operator``: the kind of the change. ``scope``: the qualified name of the enclosing definition,
    empty at the level of the module.
    """

    start: int
    end: int
    new: str
    operator: str
    scope: str

    def applied(self, source: bytes) -> bytes:
        """Return the file with the change."""
        return source[: self.start] + self.new.encode() + source[self.end :]
