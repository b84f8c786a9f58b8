"""All randomness of one simulated run: one stream per purpose, so that none shifts another.

A run can branch: up to a virtual second it follows its seed, and from there on every stream is
reseeded. Many branches at one point show which outcomes are still possible there (``--why``).
"""

from __future__ import annotations

import random
from typing import NamedTuple


class Branch(NamedTuple):
    """A branch at the virtual second ``at``; each ``salt`` is another future."""

    at: float
    salt: str


class RngStreams:
    """The random streams of one run. The loop calls ``diverge`` once, at ``branch.at``."""

    def __init__(self, seed: int, branch: Branch | None = None) -> None:
        self.branch = branch
        self._seed = seed
        self._salt = ""
        # by purpose, until the branch
        self._streams: list[tuple[str, random.Random]] = []

    def stream(self, purpose: str) -> random.Random:
        """Return a generator for one purpose; the same purpose always gives the same numbers."""
        made = random.Random(self._text(purpose))
        if self.branch is not None and not self._salt:
            self._streams.append((purpose, made))
        return made

    def diverge(self) -> None:
        """Reseed all existing streams, and salt those created from now on."""
        if self.branch is None:
            return
        self._salt = f" branch {self.branch.salt}"
        for purpose, made in self._streams:
            made.seed(self._text(purpose))
        self._streams.clear()

    def _text(self, purpose: str) -> str:
        return f"{self._seed} {purpose}{self._salt}"
