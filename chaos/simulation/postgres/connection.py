"""One client connection: bytes in virtual time on one side, a real backend on the other.

A batch is sent to the backend and its replies are read completely before the simulation continues,
so it takes no virtual time. A batch that waits for a lock is parked instead.
"""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol, cast

from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.network.transport import End
from chaos.simulation.postgres import messages
from chaos.simulation.postgres.backend import Backend, Gone, Silent
from chaos.simulation.postgres.batch import Batch, Batches
from chaos.simulation.postgres.locks import LockWaits
from chaos.simulation.postgres.messages import Message
from chaos.simulation.postgres.names import Names
from chaos.simulation.postgres.server import SharedPostgres

# Real time without a reply, after which to check whether the backend waits for a lock.
_SILENCE_SECONDS = 0.001
_SILENCE_SECONDS_MAX = 0.05
_STUCK_SECONDS = 60.0
# The settings of the product's servers (``EmbeddedPostgres``), in virtual time.
IDLE_IN_TRANSACTION_SECONDS = 60.0
CONNECTION_CHECK_SECONDS = 5.0

_TIMED_OUT = "canceling statement due to statement timeout"
_FIRST_PID = 1000

Then = Callable[[list[Message]], None]


class PostgresHost(Protocol):
    """What a connection needs of the node that serves it (``node.PostgresNode``)."""

    loop: SimulationLoop
    postgres: SharedPostgres
    names: Names
    locks: LockWaits[PostgresConnection]
    statement_timeout_seconds: float | None

    def opened(self, connection: PostgresConnection) -> None:
        """Register a connection that has a backend."""

    def closed(self, connection: PostgresConnection) -> None:
        """Unregister a connection whose backend is gone."""

    def key_data(self, connection: PostgresConnection, message: bytes) -> bytes:
        """Return the BackendKeyData that the client gets instead of the real one."""

    def cancel(self, pid: bytes, secret: bytes) -> None:
        """Pass a cancel request on to the connection with these keys."""

    def set_clock(self) -> None:
        """Set the database's clock to virtual time."""

    def later(
        self, seconds: float, callback: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle:
        """Set a timer of the node."""

    def check_seconds(self) -> float:
        """Draw the time until the server notices that a client is gone."""

    def hold_seconds(self) -> float:
        """Draw how long the next single write holds its commit; mostly 0."""

    def park(self, connection: PostgresConnection) -> bool:
        """Park the connection if its statement waits for a lock; return whether it does."""

    def resume(self, connection: PostgresConnection, *signals: int) -> None:
        """Let a parked statement run on, delivering ``signals`` first."""

    def look_again(self) -> None:
        """Check soon whether a parked statement has got its lock."""

    def note(self, connection: PostgresConnection, what: str, data: bytes = b"") -> None:
        """Add an entry to the trace."""

    def answered(
        self,
        connection: PostgresConnection,
        batch: Batch,
        replies: list[Message],
        *,
        parked: bool,
        held: bool,
        in_block: bool,
    ) -> None:
        """Report a completed batch to the trace and the listeners."""


class PostgresConnection(asyncio.Protocol):
    """Runs one batch after the other. ``backend`` exists from the startup message on.

    ``busy``: a batch is not answered yet (parked, or its commit is held); later batches wait.
    ``client``: the node at the other end.
    """

    backend: Backend
    transport: End

    def __init__(self, host: PostgresHost, number: int) -> None:
        self.number = number
        self.pid = _FIRST_PID + number  # as its client sees it, the same in every run
        self.client = ""
        self.busy = False
        self.holding = False  # only its COMMIT is missing
        self.over = False
        self._host = host
        self._batches = Batches(host.names.of)
        self._started = False
        self._client_gone = False
        self._status = b"I"  # of the transaction
        self._skipping = False  # after an error, until Sync
        self._expected: deque[bytes] = deque()
        self._replies: list[Message] = []
        self._then: Then = self._nothing
        self._parked = False  # at least once in this batch
        self._cancelled = False
        self._timer: asyncio.TimerHandle | None = None
        self._limit: asyncio.TimerHandle | None = None  # of a statement that waits
        self._timed_out = False

    # ------------------------------------------------------------------ for the network

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("End", transport)
        self.client = self.transport.peer.name

    def data_received(self, data: bytes) -> None:
        self._batches.feed(data)
        self._work()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client_gone = True
        if not self.busy:
            self._work()
        elif self._waits:
            # Postgres checks every few seconds whether the client of a running statement is alive.
            self._host.later(self._host.check_seconds(), self._check_client)

    # ------------------------------------------------------------------ for the node

    def proceed(self) -> None:
        """Read replies until the batch is complete or the backend waits for a lock."""
        silence = _SILENCE_SECONDS
        silent = 0.0
        try:
            while self._expected:
                try:
                    self._take(self.backend.read(silence))
                except Silent:
                    # A cancelled backend still waits until it has handled the signal.
                    waits = not self._cancelled and self.backend.rests
                    if waits and self._host.park(self):
                        self._parked = True
                        self._start_limit()
                        return
                    silent += silence
                    silence = min(2 * silence, _SILENCE_SECONDS_MAX)
                    if silent > _STUCK_SECONDS:
                        raise RuntimeError(
                            f"Postgres has sent nothing to {self.client} for {silent:.0f} real "
                            "seconds, although its backend waits for no lock"
                        ) from None
        except Gone:
            self.end(self._replies)
            return
        self._stop_limit()
        self._host.look_again()
        replies, self._replies = self._replies, []
        self._then(replies)

    def end(self, replies: Iterable[Message]) -> None:
        """Close after the backend has ended; the client gets the errors among ``replies``."""
        self.backend.drop()
        self._forget()
        errors = [reply for reply in replies if reply[0] == ord("E")]
        self.transport.write(b"".join(message for _, message in errors))
        for _, message in errors:
            self._host.note(self, f"connection -> {messages.outcome(message)}", message)
        self.transport.close()

    def terminated(self) -> None:
        """Close after the backend was terminated, passing on its last errors."""
        if self._waits:
            self._host.locks.release(self)
        self.end(self.backend.rest())

    def cancel(self) -> None:
        """Handle a cancel request; only a parked statement can still be cancelled."""
        if self._waits:
            self._cancelled = True
            self._host.resume(self, signal.SIGINT)

    def _start_limit(self) -> None:
        """Start the statement timeout: only a statement that waits takes virtual time."""
        seconds = self._host.statement_timeout_seconds
        if seconds is not None and self._limit is None:
            self._limit = self._host.later(seconds, self._time_out)

    def _stop_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _time_out(self) -> None:
        self._timed_out = self._waits
        self.cancel()

    def drop(self) -> None:
        """Drop the killed backend without notifying the client."""
        if self._started:
            self.backend.drop()
        self._forget()

    # ------------------------------------------------------------------ batches

    @property
    def _waits(self) -> bool:
        return self in self._host.locks.parked

    def _work(self) -> None:
        while not (self.busy or self.over):
            if not self._started:
                if not self._start():
                    break
                continue
            batch = self._batches.next(skipping=self._skipping)
            if batch is None:
                break
            self._run(batch)
        if self._client_gone and not (self.busy or self.over):
            self._goodbye()

    def _start(self) -> bool:
        """Process the startup message; return False if incomplete or the connection is over."""
        found = self._batches.startup()
        if found is None:
            return False
        code, message = found
        if code in {messages.SSL_REQUEST, messages.GSS_REQUEST}:
            self.transport.write(b"N")
            return True
        if code == messages.CANCEL_REQUEST:
            self._host.cancel(message[8:12], message[12:])
            self.over = True
            self.transport.close()
            return False
        try:
            self.backend = self._host.postgres.connect()
        except Gone:
            self.over = True
            self.transport.close()
            return False
        self._started = True
        self._host.opened(self)
        message = messages.with_setting(message, "sim.backend_pid", str(self.pid))
        self._ask(message, [b"Z"], partial(self._deliver, Batch(prepared=["connection"])))
        return True

    def _run(self, batch: Batch) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if batch.over:
            self._goodbye()
            return
        for what in batch.refused:
            self._host.loop.refused.append(
                f"{what} in Postgres ({self.client}): use INSERT, SELECT or Redis"
            )
        hold = self._host.hold_seconds() if batch.whole and self._status == b"I" else 0.0
        if not hold:
            self._ask(batch.data, batch.kinds, partial(self._deliver, batch))
            return
        begin, kinds = messages.command("BEGIN")
        data = begin + batch.data.removesuffix(messages.SYNC) + messages.FLUSH
        self._ask(data, kinds + batch.kinds[:-1], partial(self._hold, batch, hold))

    def _ask(self, data: bytes, kinds: Iterable[bytes], then: Then) -> None:
        """Send to the backend; ``then`` gets the replies, now or after a lock wait."""
        self.busy = True
        self._cancelled = False
        self._expected.extend(kinds)
        self._then = then
        self._host.set_clock()
        self.backend.send(data)
        self.proceed()

    def _take(self, reply: Message) -> None:
        kind, message = reply
        if kind == ord("K"):
            message = self._host.key_data(self, message)
        elif kind == ord("E"):
            message = messages.repeatable(message)
            if self._timed_out:  # which the real server knows as a request of its user
                message = messages.reworded(message, _TIMED_OUT)
                self._timed_out = False
            while self._expected and self._expected[0] != b"Z":
                self._expected.popleft()
            self._skipping = not self._expected
        elif kind not in messages.UNASKED and kind in self._expected[0]:
            self._expected.popleft()
            if kind == ord("Z"):
                self._status = message[5:6]
                self._skipping = False
        self._replies.append((kind, message))

    # ------------------------------------------------------------------ held commits

    def _hold(self, batch: Batch, seconds: float, replies: list[Message]) -> None:
        """Hold the commit: the statement ran inside a transaction of ours, which stays open."""
        kept = _without_command(replies)
        if self._skipping:
            rollback, kinds = messages.command("ROLLBACK")
            data = messages.SYNC + rollback + messages.SYNC
            self._ask(data, [b"Z", *kinds, b"Z"], partial(self._settle, batch, kept))
        else:
            self.holding = True
            self._timer = self._host.later(seconds, self._commit, batch, kept)

    def _commit(self, batch: Batch, kept: list[Message]) -> None:
        self._timer = None
        self.holding = False
        commit, kinds = messages.command("COMMIT")
        self._ask(commit + messages.SYNC, [*kinds, b"Z"], partial(self._settle, batch, kept))

    def _settle(self, batch: Batch, kept: list[Message], replies: list[Message]) -> None:
        """Deliver the replies as if it had been one autocommit statement."""
        failed = [reply for reply in replies if reply[0] == ord("E")]
        self._deliver(batch, [*kept, *failed, replies[-1]], held=True)

    # ------------------------------------------------------------------ answers

    def _deliver(self, batch: Batch, replies: list[Message], *, held: bool = False) -> None:
        self.busy = False
        data = b"".join(message for _, message in replies)
        if not self._client_gone:
            self.transport.write(data)
        parked, self._parked = self._parked, False
        in_block = self._status != b"I"
        self._host.answered(self, batch, replies, parked=parked, held=held, in_block=in_block)
        if in_block:
            self._timer = self._host.later(IDLE_IN_TRANSACTION_SECONDS, self._idle_too_long)
        if parked or held:  # else the caller continues with the batches that waited
            self._work()

    def _idle_too_long(self) -> None:
        text = "terminating connection due to idle-in-transaction timeout"
        self.backend.close()
        self.end([(ord("E"), messages.fatal("25P03", text))])

    def _check_client(self) -> None:
        if self._waits:
            self.backend.signal(signal.SIGTERM)
            self.terminated()

    def _goodbye(self) -> None:
        """Close after the client is gone; uncommitted work is rolled back."""
        if self._started:
            self.backend.close()
        self._forget()
        self.transport.close()

    def _forget(self) -> None:
        self.over = True
        self.busy = False
        if self._timer is not None:
            self._timer.cancel()
        self._stop_limit()
        self._host.closed(self)

    @staticmethod
    def _nothing(_: list[Message]) -> None:
        """Ignore replies before the first batch."""


def _without_command(replies: list[Message]) -> list[Message]:
    """Remove the four replies to ``messages.command``."""
    found = []
    skip = 4
    for reply in replies:
        if skip and reply[0] not in messages.UNASKED and reply[0] != ord("E"):
            skip -= 1
        else:
            found.append(reply)
    return found
