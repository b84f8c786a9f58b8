"""All chance of one simulated run: one stream per purpose, so that none shifts another.

A run can be branched: up to a virtual second it goes as the seed says, and from there on every
stream is another. Many branches at one point show what is still open there (``why``).
"""

from __future__ import annotations

import random
from typing import NamedTuple


class Branch(NamedTuple):
    """``at``: the virtual second from which on all streams differ; ``salt``: one per future."""

    at: float
    salt: str


class Dice:
    """The streams of the run with ``seed``; ``turn`` is called once, when ``branch.at`` comes."""

    def __init__(self, seed: int, branch: Branch | None = None) -> None:
        self.branch = branch
        self._seed = seed
        self._salt = ""
        # By purpose, for as long as they may have to be turned.
        self._streams: list[tuple[str, random.Random]] = []

    def stream(self, purpose: str) -> random.Random:
        """A generator for one purpose; the same purpose gives the same numbers again."""
        made = random.Random(self._text(purpose))
        if self.branch is not None and not self._salt:
            self._streams.append((purpose, made))
        return made

    def turn(self) -> None:
        """From now on, other numbers: in the streams there are and in those to come."""
        if self.branch is None:
            return
        self._salt = f" branch {self.branch.salt}"
        for purpose, made in self._streams:
            made.seed(self._text(purpose))
        self._streams.clear()

    def _text(self, purpose: str) -> str:
        return f"{self._seed} {purpose}{self._salt}"
