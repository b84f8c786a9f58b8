"""The node "postgres" of a simulated run: its connections, lock waits and faults."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import TypeVar

from chaos.nemesis.row_lock import BEGIN_LOCKING, LOCK_QUEUED
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.node import Node, current_node
from chaos.simulation.network.network import Network
from chaos.simulation.postgres import messages
from chaos.simulation.postgres.backend import Backend, Control, Gone, array
from chaos.simulation.postgres.batch import Batch
from chaos.simulation.postgres.connection import CONNECTION_CHECK_SECONDS, PostgresConnection
from chaos.simulation.postgres.locks import LockWaits
from chaos.simulation.postgres.messages import Message
from chaos.simulation.postgres.names import Names
from chaos.simulation.postgres.server import DATABASE, SharedPostgres
from chaos.simulation.postgres.statement import ExecutedStatement

NAME = "postgres"
PORT = 5432
_HOLD_SECONDS = (0.0005, 0.05)
# From the release of a lock until its next holder runs; others may come first.
_WAKE_SECONDS_MAX = 0.001
_GRAB_SECONDS = 0.01

_T = TypeVar("_T")


class PostgresNode:
    """The node "postgres" of one run; each of its incarnations runs ``main``.

    ``listeners`` are called with every answered statement; ``statements_done`` counts them.
    ``held_share``: the share of the single writing statements whose commit is held for a while, so
    that others overlap them. ``statement_timeout_seconds``: how long a statement may wait
    for locks.
    """

    def __init__(
        self,
        postgres: SharedPostgres,
        loop: SimulationLoop,
        network: Network,
        held_share: float = 0.1,
    ) -> None:
        self.listeners: list[Callable[[ExecutedStatement], None]] = []
        self.statements_done = 0
        self.statement_timeout_seconds: float | None = None
        self.loop = loop
        self.postgres = postgres
        self.names = Names()
        self.locks: LockWaits[PostgresConnection] = LockWaits()
        self._network = network
        self._held_share = held_share
        self._held_rng = loop.rng.stream("held commits")
        self._lock_rng = loop.rng.stream("locks")
        self._key_rng = loop.rng.stream("backend keys")
        self._connections: dict[int, PostgresConnection] = {}
        self._keys: dict[tuple[bytes, bytes], PostgresConnection] = {}
        self._numbers = 0
        self._waking: asyncio.TimerHandle | None = None
        self._grabbed: list[Backend] | None = None
        self._locker: Control | None = None
        self._waited = 0
        self._node: Node | None = None
        self._stopped: asyncio.Future[None] | None = None
        loop.exited.append(self._exited)
        postgres.reset()

    @property
    def node(self) -> Node:
        """Return its current or last node."""
        if self._node is None:
            raise RuntimeError(
                f"{NAME} was not started: call loop.start({NAME!r}, postgres_node.main)"
            )
        return self._node

    @property
    def pid(self) -> int | None:
        """The real server's process, while it runs."""
        return self.postgres.pid

    @property
    def holding(self) -> int:
        """Count the statements that have run and whose COMMIT is held."""
        return sum(connection.holding for connection in self._connections.values())

    async def main(self) -> None:
        """Serve until stopped or killed."""
        self._node = current_node()
        self._stopped = self.loop.create_future()
        server = await self.loop.create_server(self._accept, "0.0.0.0", PORT)  # noqa: S104
        await self._stopped
        server.close()

    def url(self) -> str:
        """Return the database URL for simulated processes."""
        return f"postgresql://postgres:any@{self._network.host(NAME)}:{PORT}/{DATABASE}"

    # ------------------------------------------------------------------ faults

    def crash(self) -> None:
        """Kill every process of the real server; uncommitted work is lost.

        The same as killing the node.
        """
        self.loop.kill(self.node)

    def stop(self) -> None:
        """Shut down fast: sessions are rolled back, notified and disconnected."""
        self._inside(self._shut_down)

    def start(self) -> Node:
        """Start the real server and the node again, after ``crash`` or ``stop``."""
        self.postgres.start()
        self._node = self.loop.start(NAME, self.main)
        return self._node

    def terminate_backends(self) -> int:
        """Terminate the backend of every client; return their number."""
        return self._inside(self._terminate_all)

    def exhaust(self) -> int:
        """Take every connection that is or becomes free until ``release``; return their number."""
        if self._grabbed is None:
            self._grabbed = []
            self._inside(self._grab)
        return len(self._grabbed)

    def release(self) -> int:
        """Release the connections that ``exhaust`` took; return their number."""
        grabbed, self._grabbed = self._grabbed or [], None
        for backend in grabbed:
            backend.send(messages.TERMINATE)
        for backend in grabbed:
            backend.rest()
        return len(grabbed)

    def lock_rows(self) -> int:
        """Lock the rows of QUEUED tasks from another session until ``unlock_rows``.

        Returns their number; call it again if there were none.
        """
        if self._locker is None:
            self._locker = self.postgres.session("another application")
            self._locker.rows(BEGIN_LOCKING)
        return len(self._locker.rows(LOCK_QUEUED))

    def unlock_rows(self) -> int:
        """End the session that locks rows; return how many statements have waited for it."""
        locker, self._locker = self._locker, None
        if locker is not None:
            locker.close()
            self._inside(self.look_again)
        waited, self._waited = self._waited, 0
        return waited

    def close(self) -> None:
        """Roll everything back after the run and end its backends in the real server."""
        self._drop_everything()
        if self.postgres.pid is not None:
            self.postgres.end_backends()

    # ------------------------------------------------------------------ for connections

    def later(
        self, seconds: float, callback: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle:
        """Set a timer of this node."""
        return self.loop.call_later(seconds, callback, *args)

    def set_clock(self) -> None:
        """Set the database's clock to this node's virtual time."""
        offset = self._node.clock_offset if self._node else 0.0
        self.postgres.set_clock(self.loop.time() + offset)

    def opened(self, connection: PostgresConnection) -> None:
        """Register a connection that has a backend."""
        self._connections[connection.number] = connection

    def closed(self, connection: PostgresConnection) -> None:
        """Unregister a connection whose backend is gone."""
        if connection in self.locks.parked:
            self.locks.parked.remove(connection)
        self._connections.pop(connection.number, None)
        self._keys = {key: each for key, each in self._keys.items() if each is not connection}
        self.look_again()
        if self._grabbed is not None:
            self.later(_GRAB_SECONDS, self._grab)

    def key_data(self, connection: PostgresConnection, message: bytes) -> bytes:
        """Replace process id and secret in BackendKeyData by values that every run repeats."""
        pid = connection.pid.to_bytes(4, "big")
        secret = self._key_rng.randbytes(len(message) - 9)
        self._keys[pid, secret] = connection
        return message[:5] + pid + secret

    def cancel(self, pid: bytes, secret: bytes) -> None:
        """Pass a cancel request on to its connection."""
        if connection := self._keys.get((pid, secret)):
            self.note(connection, "cancel request")
            connection.cancel()

    def check_seconds(self) -> float:
        """Draw the time until the server notices that a client is gone."""
        return self._lock_rng.uniform(0, CONNECTION_CHECK_SECONDS)

    def hold_seconds(self) -> float:
        """Draw how long the next single write holds its commit; mostly 0."""
        if self._held_rng.random() >= self._held_share:
            return 0.0
        return self._held_rng.uniform(*_HOLD_SECONDS)

    def park(self, connection: PostgresConnection) -> bool:
        """Park the connection if it waits for a lock; return whether it does."""
        parked = self.locks.park(self.postgres.control, connection)
        if parked:
            self.note(connection, "waits for a lock")
            self._waited += self._locker is not None and self.locks.waits_for(
                self.postgres.control, connection, self._locker.pid
            )
            self.look_again()
        return parked

    def resume(self, connection: PostgresConnection, *signals: int) -> None:
        """Let a parked statement run on."""
        self.set_clock()
        self.locks.release(connection, *signals)
        connection.proceed()

    def look_again(self) -> None:
        """Check soon for granted locks: a backend has run and may have released some."""
        if self.locks.parked and self._waking is None:
            seconds = self._lock_rng.uniform(0, _WAKE_SECONDS_MAX)
            self._waking = self.later(seconds, self._wake)

    def note(self, connection: PostgresConnection, what: str, data: bytes = b"") -> None:
        """Add an entry to the trace."""
        self.loop.trace.note("sql", connection.client, what, data)

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
        """Report a completed batch to the trace and each statement to the listeners."""
        outcomes = batch.outcomes(replies)
        what = [f"{name} -> {messages.outcome(message)}" for name, message in outcomes]
        what = what or [f"prepare {name}" for name in batch.prepared]
        how = " (waited for a lock)" * parked + " (commit held)" * held
        self.note(connection, ", ".join(what) + how, b"".join(message for _, message in replies))
        for name, message in outcomes:
            statement = ExecutedStatement(
                at=self.loop.time(),
                client=connection.client,
                name=name,
                outcome=messages.outcome(message),
                failed=message[:1] == b"E",
                parked=parked,
                held=held,
                open=in_block,
            )
            self.statements_done += 1
            for listener in self.listeners:
                listener(statement)

    # ------------------------------------------------------------------

    def _exited(self, node: Node) -> None:
        """Kill the real server when its node was killed."""
        if node is self._node and node.exit_code != 0:
            self._drop_everything()
            self.postgres.kill()

    def _inside(self, work: Callable[[], _T]) -> _T:
        """Run ``work`` as this node, so that its timers belong to this node."""
        if not self.node.alive:
            raise ProcessLookupError("the node postgres does not run")
        return self.node.context.copy().run(work)

    def _accept(self) -> PostgresConnection:
        self._numbers += 1
        return PostgresConnection(self, self._numbers)

    def _wake(self) -> None:
        """Resume one connection that got its lock, and look again if there are more."""
        self._waking = None
        granted = self.locks.granted(self.postgres.control)
        if granted:
            self.resume(self._lock_rng.choice(granted))
        if len(granted) > 1:
            self.look_again()

    def _terminate_all(self) -> int:
        hit = list(self._connections.values())
        pids = array(connection.backend.pid for connection in hit)
        terminate = f"SELECT pg_terminate_backend(pid) FROM unnest({pids}) AS pid"  # noqa: S608
        self.postgres.control.rows(terminate)
        for connection in hit:
            connection.terminated()
        return len(hit)

    def _shut_down(self) -> None:
        self.release()
        for connection in self.locks.parked:
            connection.backend.signal(signal.SIGTERM, signal.SIGCONT)
        self.locks.parked.clear()
        self.postgres.stop()
        for connection in list(self._connections.values()):
            connection.end(connection.backend.rest())
        self._drop_everything()
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)

    def _drop_everything(self) -> None:
        grabbed, self._grabbed = self._grabbed or [], None
        locker, self._locker = self._locker, None
        for backend in (*grabbed, *([locker] if locker else [])):
            backend.drop()
        self.locks.parked.clear()
        for connection in list(self._connections.values()):
            connection.drop()
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None

    def _grab(self) -> None:
        """Connect until Postgres refuses."""
        while self._grabbed is not None:
            backend = self.postgres.connect()
            backend.send(messages.startup(user="postgres", database=NAME))
            try:
                while backend.read(None)[0] != ord("Z"):
                    pass
            except Gone:
                backend.drop()
                return
            self._grabbed.append(backend)
