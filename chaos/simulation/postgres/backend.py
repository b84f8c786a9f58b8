"""A blocking connection to the real server; its use takes no virtual time."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from chaos.simulation.kernel import audit
from chaos.simulation.postgres import messages
from chaos.simulation.postgres.messages import Message

_STOP_SECONDS = 5.0
_CONTROL_SECONDS = 60.0


class Silent(Exception):
    """The backend sent nothing within the given time."""


class Gone(Exception):
    """The backend has ended, or the server does not run."""


class Backend:
    """A connection and its backend process; ``pid`` is set once the backend has sent it."""

    def __init__(self, path: Path) -> None:
        """Connect to the socket ``path``.

        Raises:
            Gone: no server listens there.
        """
        self.pid = 0
        self._buffer = bytearray()
        self._messages: list[Message] = []
        with audit.real():
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.connect(str(path))
            except OSError as error:
                self._socket.close()
                raise Gone(f"no Postgres at {path}: {error}") from error

    def send(self, data: bytes) -> None:
        """Send all bytes; the end of a backend is detected by reading."""
        self._socket.settimeout(None)
        with contextlib.suppress(OSError):
            self._socket.sendall(data)

    def read(self, seconds: float | None) -> Message:
        """Return the next message.

        Raises:
            Silent: no byte arrived within ``seconds``.
            Gone: the connection has ended.
        """
        while not self._messages:
            self._socket.settimeout(seconds)
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise Silent(f"Postgres sent nothing for {seconds} s") from None
            except OSError as error:
                raise Gone(str(error)) from error
            if not data:
                raise Gone("Postgres closed the connection")
            self._buffer += data
            self._messages = messages.split(self._buffer)
            self._messages.reverse()  # popped from the end
        kind, message = self._messages.pop()
        if kind == ord("K"):
            self.pid = int.from_bytes(message[5:9], "big")
        return kind, message

    def rest(self) -> list[Message]:
        """Read until the backend has ended; then it holds no locks any more."""
        found = []
        try:
            while True:
                found.append(self.read(None))
        except Gone:
            self.drop()
        return found

    def drop(self) -> None:
        """Close the socket without waiting."""
        self._socket.close()

    def close(self) -> None:
        """End the session and wait for the backend: it rolls back and releases all locks."""
        self.send(messages.TERMINATE)
        self.rest()

    def stop(self) -> None:
        """Send SIGSTOP and wait until the process has stopped."""
        stat = Path(f"/proc/{self.pid}/stat")
        with audit.real():
            os.kill(self.pid, signal.SIGSTOP)
            give_up = time.monotonic() + _STOP_SECONDS
            while stat.exists() and stat.read_text(errors="replace").rpartition(")")[2][1] != "T":
                if time.monotonic() > give_up:
                    raise RuntimeError(f"backend {self.pid} does not stop")

    @property
    def rests(self) -> bool:
        """Return whether its process sleeps, waiting for a lock or for a request."""
        try:
            stat = os.open(f"/proc/{self.pid}/stat", os.O_RDONLY)
        except OSError:
            return True  # no /proc: ask Postgres instead
        with open(stat, "rb") as file:  # noqa: PTH123
            return file.read().rpartition(b") ")[2][:1] == b"S"

    def signal(self, *numbers: int) -> None:
        """Send signals in this order."""
        for number in numbers:
            with audit.real(), contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Control(Backend):
    """A connection of the arena itself for simple queries."""

    def __init__(self, path: Path, database: str, name: str) -> None:
        super().__init__(path)
        self.send(messages.startup(user="postgres", database=database, application_name=name))
        self._until_ready(_CONTROL_SECONDS)

    def rows(self, sql: str) -> list[list[str]]:
        """Run ``sql`` and return its rows as texts.

        Raises:
            RuntimeError: Postgres returned an error.
            Silent: no answer within a minute.
            Gone: the server has ended.
        """
        self.send(messages.query(sql))
        return messages.rows(self._until_ready(_CONTROL_SECONDS))

    def answers(self, sql: str, seconds: float) -> bool:
        """Return whether ``sql`` is answered quickly; if not, ``settle`` must follow."""
        self.send(messages.query(sql))
        try:
            self._until_ready(seconds)
        except Silent:
            return False
        return True

    def settle(self) -> None:
        """Wait for the answer that ``answers`` did not wait for."""
        self._until_ready(_CONTROL_SECONDS)

    def _until_ready(self, seconds: float) -> list[Message]:
        found = []
        kind = 0
        while kind != ord("Z"):
            kind, message = self.read(seconds)
            found.append((kind, message))
        for kind, message in found:
            if kind == ord("E"):
                raise RuntimeError(
                    f"Postgres refused a statement of the arena: {messages.fields(message)['M']}"
                )
        return found


def array(pids: Iterable[int]) -> str:
    """Return process ids as an SQL literal."""
    return f"'{{{','.join(str(pid) for pid in pids)}}}'::int[]"
