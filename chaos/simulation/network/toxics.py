"""Toxiproxy's toxics (2.12) by name, attributes and meaning, on one direction of a connection.

The effect on bytes in flight, and on adding and removing a toxic, follows Toxiproxy's source, not
its manual: a ``timeout`` restarts with every chunk that it swallows, ``reset_peer`` acts only once
something flows, ``latency`` does not delay a close.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import random
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol

from chaos.scenario.vocabulary import FAULTS, TargetKind

Stream = Literal["upstream", "downstream"]
STREAMS: tuple[Stream, ...] = ("upstream", "downstream")

ATTRIBUTES = {
    name: kind.attributes
    for name, kind in FAULTS.items()
    if TargetKind.EDGE in kind.target_kinds and name not in {"down", "silent_drop"}
}
# The time between the pieces into which a bandwidth toxic cuts a long chunk.
_PIECE_MS = 100
_SLACK_SECONDS = 1e-9


class ChunkKind(Enum):
    """The kinds of chunks on a connection. SYN: a connection to accept."""

    SYN = "SYN"
    DATA = "DATA"
    FIN = "FIN"
    RST = "RST"


@dataclass(slots=True, eq=False)
class Chunk:
    """A unit in flight. ``at``: the virtual second at which it last moved."""

    kind: ChunkKind
    data: bytes
    at: float


@dataclass(slots=True)
class Toxic:
    """A toxic for one direction of an edge, with Toxiproxy's names and units.

    Raises:
        ValueError: unknown toxic or stream, or wrong attributes (all are natural numbers).
    """

    name: str
    stream: Stream
    attributes: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.name not in ATTRIBUTES:
            raise ValueError(f"no toxic {self.name!r}; known toxics: {', '.join(ATTRIBUTES)}")
        if self.stream not in STREAMS:
            raise ValueError(f"{self.name}: no stream {self.stream!r}; known streams: {STREAMS}")
        needed = ATTRIBUTES[self.name]
        if set(self.attributes) != set(needed) or min(self.attributes.values()) < 0:
            raise ValueError(
                f"{self.name} needs the attributes {', '.join(needed)} as natural numbers,"
                f" not {dict(self.attributes)}"
            )

    def __str__(self) -> str:
        return f"{self.name} {self.stream} " + " ".join(
            f"{name}={value}" for name, value in self.attributes.items()
        )


class DeliveryPath(Protocol):
    """The direction of a connection, as its toxic stages see it (``link.Link``)."""

    loop: asyncio.AbstractEventLoop
    context: contextvars.Context
    rng: random.Random

    def forward(self, stage: ToxicStage, chunk: Chunk) -> None:
        """Pass a chunk on to what follows the stage."""

    def drop(self, chunk: Chunk) -> None:
        """Count a chunk as lost."""

    def slowed(self) -> None:
        """Count a message as delayed or split."""

    def shut(self, stage: ToxicStage, kind: ChunkKind) -> None:
        """Close the connection; the receiver still gets what was passed on before."""


class ToxicStage:
    """A toxic applied to one direction of a connection. ``fresh``: added before it opened."""

    def __init__(self, toxic: Toxic, path: DeliveryPath, *, fresh: bool) -> None:
        self.toxic = toxic
        self.path = path
        self.fresh = fresh
        self._timer: asyncio.TimerHandle | None = None

    def push(self, chunk: Chunk) -> None:
        """Process DATA, FIN or RST (Toxiproxy treats both as a close)."""
        raise NotImplementedError

    def removed(self) -> None:
        """Handle the removal of the toxic."""

    @property
    def held(self) -> Collection[Chunk]:
        """Return the chunks held here."""
        return ()

    def discard(self) -> None:
        """Stop; the connection is gone."""
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _after(self, milliseconds: float, callback: Callable[[], None]) -> None:
        self._stop_timer()
        when = self.path.loop.time() + milliseconds / 1000
        self._timer = self.path.loop.call_at(when, callback, context=self.path.context)


class _Holding(ToxicStage):
    """Holds chunks, in order, until each is due. Removal releases them all at once."""

    def __init__(self, toxic: Toxic, path: DeliveryPath, *, fresh: bool) -> None:
        super().__init__(toxic, path, fresh=fresh)
        self._held: deque[tuple[float, Chunk]] = deque()
        # when the last accepted chunk leaves
        self._free = 0.0

    def plan(self, chunk: Chunk) -> list[tuple[float, Chunk]]:
        """Return the pieces of a chunk with the times they leave, in order."""
        raise NotImplementedError

    def push(self, chunk: Chunk) -> None:
        planned = self.plan(chunk)
        if len(planned) > 1 or planned[0][0] > self.path.loop.time():
            self.path.slowed()
        self._held.extend(planned)
        if self._timer is None:
            self._release()

    def removed(self) -> None:
        self._stop_timer()
        self._release(everything=True)

    @property
    def held(self) -> Collection[Chunk]:
        return [chunk for _, chunk in self._held]

    def discard(self) -> None:
        super().discard()
        for chunk in self.held:
            self.path.drop(chunk)
        self._held.clear()

    def _release(self, *, everything: bool = False) -> None:
        self._timer = None
        now = self.path.loop.time() + _SLACK_SECONDS
        while self._held and (everything or self._held[0][0] <= now):
            self.path.forward(self, self._held.popleft()[1])
        if self._held and self._held[0][0] < math.inf:
            self._timer = self.path.loop.call_at(
                self._held[0][0], self._release, context=self.path.context
            )


class _Latency(_Holding):
    def plan(self, chunk: Chunk) -> list[tuple[float, Chunk]]:
        if chunk.kind is ChunkKind.DATA:
            self._free = max(self._free, chunk.at + self.toxic.attributes["latency"] / 1000)
            chunk.at = self._free
        return [(self._free, chunk)]


class _Bandwidth(_Holding):
    def plan(self, chunk: Chunk) -> list[tuple[float, Chunk]]:
        rate = self.toxic.attributes["rate"]
        self._free = max(self._free, self.path.loop.time())
        if chunk.kind is not ChunkKind.DATA:
            return [(self._free, chunk)]
        if rate == 0:
            self._free = math.inf
            return [(self._free, chunk)]
        piece = rate * _PIECE_MS  # KB/s times ms = bytes
        planned = []
        for start in range(0, len(chunk.data), piece):
            data = chunk.data[start : start + piece]
            self._free += len(data) / rate / 1000
            planned.append((self._free, Chunk(ChunkKind.DATA, data, chunk.at)))
        return planned


class _Slicer(_Holding):
    def plan(self, chunk: Chunk) -> list[tuple[float, Chunk]]:
        self._free = max(self._free, self.path.loop.time())
        if chunk.kind is not ChunkKind.DATA:
            return [(self._free, chunk)]
        planned = []
        for start, end in self._cut(0, len(chunk.data)):
            planned.append((self._free, Chunk(ChunkKind.DATA, chunk.data[start:end], chunk.at)))
            self._free += self.toxic.attributes["delay"] / 1e6
        return planned

    def _cut(self, start: int, end: int) -> list[tuple[int, int]]:
        size = max(1, self.toxic.attributes["average_size"])
        variation = self.toxic.attributes["size_variation"]
        if end - start - size <= variation:
            return [(start, end)]
        middle = start + (end - start) // 2
        if variation:
            middle += self.path.rng.randrange(2 * variation) - variation
        middle = min(max(middle, start + 1), end - 1)
        return self._cut(start, middle) + self._cut(middle, end)


class _SlowClose(_Holding):
    def plan(self, chunk: Chunk) -> list[tuple[float, Chunk]]:
        delay = 0 if chunk.kind is ChunkKind.DATA else self.toxic.attributes["delay"]
        return [(self.path.loop.time() + delay / 1000, chunk)]


class _Timeout(ToxicStage):
    def __init__(self, toxic: Toxic, path: DeliveryPath, *, fresh: bool) -> None:
        super().__init__(toxic, path, fresh=fresh)
        self._restart()

    def push(self, chunk: Chunk) -> None:
        if chunk.kind is not ChunkKind.DATA:
            self._stop_timer()
            self.path.forward(self, chunk)
            return
        self.path.drop(chunk)
        self._restart()

    def removed(self) -> None:
        self._stop_timer()
        self.path.shut(self, ChunkKind.FIN)  # by design: data was lost

    def _restart(self) -> None:
        if self.toxic.attributes["timeout"]:
            self._after(self.toxic.attributes["timeout"], self._expire)

    def _expire(self) -> None:
        self._timer = None
        self.path.shut(self, ChunkKind.FIN)


class _ResetPeer(ToxicStage):
    def push(self, chunk: Chunk) -> None:
        self.path.drop(chunk)
        if self._timer is None:
            self._after(self.toxic.attributes["timeout"], self._reset)

    def removed(self) -> None:
        # Toxiproxy's removal waits for a pending reset, which cannot be stopped.
        if self._timer is not None:
            self._stop_timer()
            self._reset()

    def _reset(self) -> None:
        self.path.shut(self, ChunkKind.RST if self.fresh else ChunkKind.FIN)


class _LimitData(ToxicStage):
    def __init__(self, toxic: Toxic, path: DeliveryPath, *, fresh: bool) -> None:
        super().__init__(toxic, path, fresh=fresh)
        self._left = toxic.attributes["bytes"]

    def push(self, chunk: Chunk) -> None:
        if chunk.kind is not ChunkKind.DATA:
            self.path.forward(self, chunk)
            return
        over = Chunk(ChunkKind.DATA, chunk.data[self._left :], chunk.at)
        chunk.data = chunk.data[: self._left]
        self._left -= len(chunk.data)
        if chunk.data:
            self.path.forward(self, chunk)
        self.path.drop(over)
        if self._left == 0:
            self.path.shut(self, ChunkKind.FIN)


_STAGES: dict[str, type[ToxicStage]] = {
    "latency": _Latency,
    "bandwidth": _Bandwidth,
    "timeout": _Timeout,
    "reset_peer": _ResetPeer,
    "slicer": _Slicer,
    "slow_close": _SlowClose,
    "limit_data": _LimitData,
}


def create_toxic_stage(toxic: Toxic, path: DeliveryPath, *, fresh: bool) -> ToxicStage:
    """Create the stage that applies a toxic to one direction of a connection."""
    return _STAGES[toxic.name](toxic, path, fresh=fresh)
