"""One simulated connection to Redis and the real one behind it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import hiredis

from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.network.transport import End
from chaos.simulation.valkey.commands import (
    Command,
    about,
    block_seconds,
    lower_name,
    masked,
    needs_a_look,
    stamped,
    streams,
    with_ids,
)
from chaos.simulation.valkey.server import RealConnection

_NILS = (b"*-1\r\n", b"_\r\n")
_QUEUED = b"+OK\r\n+QUEUED\r\n*1\r\n"
_OK = b"+OK\r\n"
_UNBLOCKED = (
    b"-UNBLOCKED force unblock from blocking operation, instance state changed"
    b" (master -> replica?)\r\n"
)


@dataclass(slots=True, eq=False)
class Parked:
    """A blocking read that waits. ``nil``: the reply at its timeout."""

    command: Command
    keys: frozenset[bytes]
    nil: bytes
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True, eq=False)
class _Sent:
    """A command in flight. ``effects``: what takes effect with it (EXEC: the whole MULTI)."""

    command: Command
    effects: list[Command]


class ValkeyHost(Protocol):
    """What a connection needs of the node that serves it (``node.ValkeyNode``)."""

    loop: SimulationLoop
    waiting: dict[ValkeyConnection, Parked]

    def connect(self, connection: ValkeyConnection) -> RealConnection:
        """Register a connection and open the real one behind it."""

    def disconnect(self, connection: ValkeyConnection) -> None:
        """Unregister a closed connection."""

    def refusal(self, client: str, command: Command) -> str | None:
        """Return the error for a command that is not simulated, and None for any other."""

    def milliseconds(self) -> int:
        """Return the server's clock, which never goes back."""

    def wakes(self, commands: Sequence[Command]) -> bool:
        """Whether a waiting read may be answered once these commands have taken effect."""

    def done(self, commands: Sequence[Command]) -> None:
        """Retry the reads that wait for the keys of these commands."""

    def saw(self, client: str, command: Command, how: str, raw: bytes = b"") -> None:
        """Record an answered command in the trace and the counters."""


class ValkeyConnection(asyncio.Protocol):
    """Answers the commands of its client in order, blocking reads included."""

    def __init__(self, host: ValkeyHost) -> None:
        self.client = "?"
        self.database = 0
        self._host = host
        self._reader = hiredis.Reader()
        self._todo: deque[Command] = deque()
        self._queued: list[Command] | None = None  # since the client's MULTI
        self._transport: End | None = None
        self._real: RealConnection | None = None

    # -------------------------------------------------------------------------- asyncio's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("End", transport)
        self.client = self._transport.peer.name
        self._real = self._host.connect(self)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (command := self._reader.gets()) is not False:
                self._take([bytes(word) for word in command])
        except (hiredis.ProtocolError, TypeError):
            self._write(b"-ERR Protocol error: only arrays of bulk strings are understood\r\n")
            self.cut()
        else:
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self.forget()

    # -------------------------------------------------------------------------- the node's

    def try_again(self, parked: Parked) -> bool:
        """Retry a waiting read; return whether it was answered."""
        raw, answer = self._attempt(parked.command)
        if raw in _NILS:
            return False
        self._end_wait(parked, raw, _short(answer))
        return True

    def unblock(self) -> None:
        """End a waiting read as a server does that becomes a replica."""
        if parked := self._host.waiting.get(self):
            self._end_wait(parked, _UNBLOCKED, "unblocked")

    def cut(self) -> None:
        """Close it as the server."""
        self.forget()
        if self._transport is not None:
            self._transport.close()

    def forget(self) -> None:
        """Stop waiting and close the real connection. Idempotent."""
        parked = self._host.waiting.pop(self, None)
        if parked is not None and parked.timer is not None:
            parked.timer.cancel()
        self._host.disconnect(self)
        self._todo.clear()
        if self._real is not None:
            self._real.close()
            self._real = None

    # -------------------------------------------------------------------------------------

    def _take(self, command: Command) -> None:
        refusal = self._host.refusal(self.client, command) if command else None
        if refusal is not None:
            self._go_on()
            self._write(f"-ERR {refusal}".replace("\n", " ").encode() + b"\r\n")
        elif command:
            self._todo.append(command)

    def _go_on(self) -> None:
        """Answer the received commands until a read has to wait."""
        while self._todo and self not in self._host.waiting:
            seconds = self._block_seconds(self._todo[0])
            if seconds is not None:
                self._read(self._todo.popleft(), seconds)
            else:
                self._pass_on(self._next_run())

    def _block_seconds(self, command: Command) -> float | None:
        return block_seconds(command) if self._queued is None else None

    def _next_run(self) -> list[_Sent]:
        """Take the commands to send together; other readers may have to retry after the last."""
        run: list[_Sent] = []
        while self._todo and self._block_seconds(self._todo[0]) is None:
            if run and needs_a_look(self._todo[0]):
                break
            sent = self._send(stamped(self._todo.popleft(), self._host.milliseconds()))
            run.append(sent)
            if needs_a_look(sent.command) or self._host.wakes(sent.effects):
                break
        return run

    def _send(self, command: Command) -> _Sent:
        """Track the state of the connection; return the command with its effects."""
        name = lower_name(command)
        if name == "select" and command[1:] and command[1].isdigit():
            self.database = int(command[1])
        if name in {"exec", "discard"}:
            queued, self._queued = self._queued or [], None
            return _Sent(command, queued if name == "exec" else [])
        if self._queued is not None:
            self._queued.append(command)
            return _Sent(command, [])
        if name == "multi":
            self._queued = []
        return _Sent(command, [command])

    def _pass_on(self, run: list[_Sent]) -> None:
        raw, answers = self._server().ask(*(sent.command for sent in run))
        if needs_a_look(run[0].command):
            raw = masked(raw)
        self._write(raw)
        for sent, answer in zip(run, answers, strict=True):
            data = raw if sent is run[-1] else b""
            self._host.saw(self.client, sent.command, _short(answer), data)
            if sent.effects and answer is not None and not isinstance(answer, Exception):
                self._host.done(sent.effects)
        if lower_name(run[-1].command) == "quit":
            self.cut()

    def _read(self, command: Command, seconds: float) -> None:
        command = self._from_now_on(command)
        raw, answer = self._attempt(command)
        if raw not in _NILS:
            self._write(raw)
            self._host.saw(self.client, command, _short(answer), raw)
            return
        parked = Parked(command, frozenset(streams(command)), raw)
        if seconds:
            loop = self._host.loop
            parked.timer = loop.call_later(seconds, self._end_wait, parked, raw, "nil")
        self._host.waiting[self] = parked
        self._host.loop.trace.note("redis", self.client, f"{about(command)} waits")

    def _end_wait(self, parked: Parked, raw: bytes, how: str) -> None:
        if parked.timer is not None:
            parked.timer.cancel()
        del self._host.waiting[self]
        self._write(raw)
        self._host.saw(self.client, parked.command, how, raw)
        if self._todo:
            self._host.loop.call_soon(self._go_on)

    def _attempt(self, command: Command) -> tuple[bytes, Any]:
        """Run the command without waiting; return the raw reply and its value."""
        raw, answers = self._server().ask([b"MULTI"], command, [b"EXEC"])
        if raw.startswith(_QUEUED):
            return raw[len(_QUEUED) :], answers[2][0]
        # It was rejected by MULTI: the error is the reply.
        return raw[len(_OK) : raw.index(b"\r\n", len(_OK)) + 2], answers[1]

    def _from_now_on(self, command: Command) -> Command:
        """Replace ``$`` by the last id now, so that retries read from the same place."""
        if lower_name(command) != "xread":
            return command
        asked = [key for key, place in streams(command).items() if place == b"$"]
        return with_ids(command, {key: self._last_id(key) for key in asked})

    def _last_id(self, key: bytes) -> bytes:
        (answer,) = self._server().ask([b"XINFO", b"STREAM", key])[1]
        if isinstance(answer, Exception):
            return b"0-0"
        found = answer if isinstance(answer, dict) else dict(zip(*[iter(answer)] * 2, strict=True))
        return bytes(found[b"last-generated-id"])

    def _server(self) -> RealConnection:
        if self._real is None:
            raise RuntimeError("the connection is closed")
        return self._real

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _short(answer: Any) -> str:
    if isinstance(answer, Exception):
        return f"error {str(answer).partition(' ')[0]}"
    return "nil" if answer is None else "ok"
