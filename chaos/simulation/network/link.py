"""Connections: each direction is its toxics, then the wire, then the receiver's kernel."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from dataclasses import fields, replace
from typing import Protocol

from chaos.errors import EdgeRefused
from chaos.simulation.kernel import trace
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.network.message import Message, Tap
from chaos.simulation.network.toxics import (
    STREAMS,
    Chunk,
    ChunkKind,
    Stream,
    Toxic,
    ToxicStage,
    create_toxic_stage,
)
from chaos.simulation.network.traffic import Traffic
from chaos.simulation.network.transport import End

_ARROWS: dict[Stream, str] = {"upstream": "up", "downstream": "down"}


class EdgeNetwork(Protocol):
    """What an edge needs of the network it belongs to (``network.Network``).

    ``context``: that of the network's own node, in which the edge's timers run.
    """

    loop: SimulationLoop
    context: contextvars.Context
    tap: Tap | None
    latency_seconds: tuple[float, float]


class Link:
    """One direction of a connection (``toxics.DeliveryPath``).

    ``in_flight``: bytes written, but neither taken by the receiver nor lost. ``queue``: chunks on
    the wire; the first ``arrived`` of it have reached the receiver's kernel.
    """

    reverse: Link

    def __init__(self, edge: Edge, stream: Stream, number: int, sender: End, receiver: End) -> None:
        self.edge = edge
        self.stream = stream
        self.connection = number
        self.sender = sender
        self.receiver = receiver
        self.loop: asyncio.AbstractEventLoop = edge.loop
        self.context: contextvars.Context = edge.context
        # One random stream per link: the traffic of other links does not shift it.
        self.rng = edge.loop.rng.stream(f"{edge.name} {stream} {number}")
        self.in_flight = 0
        self.arrived = 0
        self.queue: deque[Chunk] = deque()
        self._due = 0.0  # when the last on the wire arrives
        self._written = -1.0  # when the last was written
        self._fate: ChunkKind | None = None  # FIN or RST, once it is on the wire
        self._shut = False  # no more data is accepted from the sender
        self._forgotten = False  # nothing reaches the receiver any more
        self._traffic = edge.traffic[stream]
        self.stages: list[ToxicStage] = []
        for toxic in edge.toxics:
            self.add(toxic, fresh=True)

    # -------------------------------------------------------------------- the sender's side

    def write(self, data: bytes) -> None:
        """Send bytes. Without toxics, all writes of one step form one message."""
        if self._shut:
            self.reverse.finish(ChunkKind.RST)
            return
        now = self.loop.time()
        self.in_flight += len(data)
        self._traffic.sent_bytes += len(data)
        if not self.stages and self._written == now and self.queue:
            self.queue[-1].data += data
            return
        self._written = now
        self._traffic.sent_messages += 1
        self._enter(Chunk(ChunkKind.DATA, data, now))

    def finish(self, kind: ChunkKind) -> None:
        """End the stream: the sender is done (FIN), or gone with unread data (RST)."""
        if not self._shut or kind is ChunkKind.RST:
            self._shut = True
            self._enter(Chunk(kind, b"", self.loop.time()))

    def _enter(self, chunk: Chunk) -> None:
        if self.stages:
            self.stages[0].push(chunk)
        else:
            self.wire(chunk)

    # -------------------------------------------------------------------- toxics

    def add(self, toxic: Toxic, *, fresh: bool = False) -> None:
        """Add a toxic behind the existing ones. ``fresh``: the connection is new."""
        if toxic.stream == self.stream:
            self.stages.append(create_toxic_stage(toxic, self, fresh=fresh))

    def remove(self, toxic: Toxic) -> None:
        """Remove a toxic; the chunks that it held move on."""
        for stage in [stage for stage in self.stages if stage.toxic is toxic]:
            stage.removed()
            if stage in self.stages:
                self.stages.remove(stage)

    def forward(self, stage: ToxicStage, chunk: Chunk) -> None:
        after = self.stages.index(stage) + 1
        if after < len(self.stages):
            self.stages[after].push(chunk)
        else:
            self.wire(chunk)

    def drop(self, chunk: Chunk) -> None:
        if chunk.data:
            self._traffic.dropped_messages += 1
            self._taken(chunk)

    def slowed(self) -> None:
        self._traffic.slowed_messages += 1

    def shut(self, stage: ToxicStage, kind: ChunkKind) -> None:
        """Close the whole connection, as Toxiproxy does when one direction ends."""
        before = self.stages[: self.stages.index(stage)]
        self.forward(stage, Chunk(kind, b"", self.loop.time()))
        for each in [*before, stage]:
            each.discard()
            self.stages.remove(each)
        self._shut = True
        self.reverse.finish(kind)

    def cut(self, kind: ChunkKind) -> None:
        """Close the connection as the proxy; chunks held by toxics are lost."""
        for stage in self.stages:
            stage.discard()
        self.stages.clear()
        self._shut = True
        self.wire(Chunk(kind, b"", self.loop.time()))

    # -------------------------------------------------------------------- the wire

    def wire(self, chunk: Chunk) -> None:
        """Put a chunk on the wire, in order. Nothing follows a RST; only a RST follows a FIN."""
        if self._forgotten:
            self.drop(chunk)
            return
        if self._fate is not None and (self._fate is chunk.kind or chunk.kind is not ChunkKind.RST):
            self.drop(chunk)
            return
        if chunk.kind in (ChunkKind.FIN, ChunkKind.RST):
            self._fate = chunk.kind
        self._due = chunk.at = max(self._due, self.loop.time() + self.edge.latency(self.rng))
        self.queue.append(chunk)
        # The kernel answers for a closed socket even if its process is paused or gone.
        context = self.context if self.receiver.closed else self.receiver.context
        self.loop.call_at(chunk.at, self._arrive, self.queue, context=context)

    def forget(self) -> None:
        """Swallow what is on the wire and all that follows, the end of the stream included."""
        self._forgotten = True
        self.discard()

    def discard(self) -> bool:
        """Drop what is on the wire; return whether bytes were lost."""
        lost = [chunk for chunk in self.queue if chunk.kind is ChunkKind.DATA]
        # A new queue makes the pending arrivals of the old one no-ops.
        self.queue, self.arrived = deque(), 0
        for chunk in lost:
            self._taken(chunk)
        return bool(lost)

    # -------------------------------------------------------------------- the receiver's side

    @property
    def unread(self) -> bool:
        """Whether bytes wait in the receiver's kernel."""
        return self.arrived > 0 and self.queue[0].kind is ChunkKind.DATA

    @property
    def broken(self) -> bool:
        """Whether a RST waits there."""
        return 0 < self.arrived == len(self.queue) and self.queue[-1].kind is ChunkKind.RST

    def drain(self) -> None:
        """Deliver what has arrived, as long as the receiver takes it."""
        while self.arrived and self.receiver.takes:
            self.arrived -= 1
            self._hand_over(self.queue.popleft())

    def _arrive(self, queue: deque[Chunk]) -> None:
        if queue is self.queue:
            self.arrived += 1
            self.drain()

    def _hand_over(self, chunk: Chunk) -> None:
        receiver = self.receiver
        if chunk.kind is ChunkKind.DATA:
            self._taken(chunk)
            if receiver.closed:
                self.reverse.finish(ChunkKind.RST)
            elif self._passes(chunk.data):
                receiver.receive(chunk.data)
        elif not receiver.closed:
            self.edge.note(f"{_ARROWS[self.stream]} {chunk.kind.value}")
            if chunk.kind is ChunkKind.SYN:
                receiver.accept()
            elif chunk.kind is ChunkKind.FIN:
                receiver.receive_eof()
            else:
                receiver.receive_reset()

    def _passes(self, data: bytes) -> bool:
        """Count, trace and tap a message; return False if it is lost."""
        edge, traffic = self.edge, self._traffic
        traffic.received_messages += 1
        traffic.received_bytes += len(data)
        number = traffic.received_messages
        mask = self.sender.mask or self.receiver.mask
        what = f"{_ARROWS[self.stream]} #{number} {len(data)} bytes"
        edge.note(what, data if mask is None else mask(data))
        if edge.tap is None:
            return True
        sender, receiver = self.sender.node, self.receiver.node
        message = Message(edge.name, self.stream, number, data, sender, receiver, self.connection)
        if not edge.tap(message):
            edge.note(f"{_ARROWS[self.stream]} #{number} lost")
            for link in (self, self.reverse):
                link.discard()
                link.cut(ChunkKind.RST)
            return False
        return not self.receiver.dead  # the tap may have killed it

    def _taken(self, chunk: Chunk) -> None:
        self.in_flight -= len(chunk.data)
        if self.sender.throttled and not self.sender.dead:
            self.loop.call_soon(self.sender.resume, context=self.sender.context)


class Connection:
    """Two ends and two links. ``number``: of its edge, from 1."""

    def __init__(self, edge: Edge, number: int, client: End, server: End) -> None:
        self.client, self.server = client, server
        self.upstream = Link(edge, "upstream", number, client, server)
        self.downstream = Link(edge, "downstream", number, server, client)
        client.outbound = server.inbound = self.upstream
        server.outbound = client.inbound = self.downstream
        self.upstream.reverse, self.downstream.reverse = self.downstream, self.upstream

    @property
    def links(self) -> tuple[Link, Link]:
        return self.upstream, self.downstream

    @property
    def ends(self) -> tuple[End, End]:
        return self.client, self.server

    @property
    def over(self) -> bool:
        """Whether both ends are closed."""
        return self.client.closed and self.server.closed


class Edge:
    """All connections from one host to another, like one Toxiproxy proxy at the client.

    ``opened`` and ``refused`` count connections.
    """

    def __init__(self, network: EdgeNetwork, name: str) -> None:
        self.name = name
        self.loop = network.loop
        self.context = network.context
        self.rng = self.loop.rng.stream(name)
        self.enabled = True
        self.toxics: list[Toxic] = []
        self.connections: list[Connection] = []
        self.traffic: dict[Stream, Traffic] = {stream: Traffic() for stream in STREAMS}
        self.opened = 0
        self.refused = 0
        self._network = network

    # ------------------------------------------------------------------------------ faults

    def add(self, toxic: Toxic) -> None:
        """Add a toxic behind the existing ones, for open connections too."""
        self.note(f"add {toxic}", kind="fault")
        toxic = replace(toxic)  # equal toxics may coexist
        self.toxics.append(toxic)
        for link in self._links():
            link.add(toxic)

    def remove(self, toxic: Toxic) -> None:
        """Remove a toxic if present: held bytes arrive at once, a timeout closes connections."""
        if toxic not in self.toxics:
            return
        standing = self.toxics.pop(self.toxics.index(toxic))
        self.note(f"remove {toxic}", kind="fault")
        for link in self._links():
            link.remove(standing)

    def down(self) -> None:
        """Refuse connections and close the open ones; bytes held by toxics are lost."""
        self.note("down", kind="fault")
        self.enabled = False
        for link in self._links():
            link.cut(ChunkKind.FIN)

    def up(self) -> None:
        """Accept connections again."""
        self.note("up", kind="fault")
        self.enabled = True

    def forget(self) -> None:
        """Let the open connections swallow everything, unnoticed; new ones work."""
        self.note("forgets its connections", kind="fault")
        for link in self._links():
            link.forget()

    def heal(self) -> None:
        """Remove all toxics and accept connections."""
        for toxic in list(self.toxics):
            self.remove(toxic)
        if not self.enabled:
            self.up()

    # ------------------------------------------------------------------------------ evidence

    @property
    def open(self) -> int:
        """Count the connections of which neither end is closed."""
        return sum(
            not (connection.client.closed or connection.server.closed)
            for connection in self.connections
        )

    def faults(self) -> list[str]:
        """Return the toxics that it has, each by type and stream, and ``down`` if it is."""
        toxics = [f"{toxic.name} {toxic.stream}" for toxic in self.toxics]
        return toxics if self.enabled else [*toxics, "down"]

    def counters(self) -> dict[str, int]:
        """Return counters over both streams. All but the ``held`` ones are monotonic."""
        counted = {
            field.name: sum(getattr(traffic, field.name) for traffic in self.traffic.values())
            for field in fields(Traffic)
        }
        held = [chunk for link in self._links() for stage in link.stages for chunk in stage.held]
        return counted | {
            "opened": self.opened,
            "closed": self.opened - self.open,
            "refused": self.refused,
            "held_messages": len(held),
            "held_bytes": sum(len(chunk.data) for chunk in held),
        }

    # ------------------------------------------------------------------------------ for links

    @property
    def tap(self) -> Tap | None:
        return self._network.tap

    def connect(self, client: End, server: End) -> Connection:
        """Connect two ends; forget connections that are over.

        Raises:
            EdgeRefused: the client's node is not the one that the edge starts from.
        """
        if client.node.name != self.name.partition("->")[0]:
            text = f"a connection of {client.node.name} over {self.name}: only its own edges"
            self.loop.refused.append(text)  # in case the exception is swallowed
            raise EdgeRefused(text)
        self.opened += 1
        connection = Connection(self, self.opened, client, server)
        self.connections = [each for each in self.connections if not each.over]
        self.connections.append(connection)
        return connection

    def latency(self, rng: random.Random) -> float:
        """Draw the virtual seconds of one way over the wire."""
        low, high = self._network.latency_seconds
        return low + (high - low) * rng.random()

    def note(self, what: str, data: bytes = b"", kind: trace.EntryKind = "wire") -> None:
        """Add an entry to the trace."""
        self.loop.trace.note(kind, self.name, what, data)

    def _links(self) -> list[Link]:
        return [link for connection in self.connections for link in connection.links]
