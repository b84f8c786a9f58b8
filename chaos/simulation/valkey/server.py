"""The real Valkey behind simulated runs, and blocking connections to it."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any, Self

import hiredis

from chaos.nemesis.demotable_valkey import DemotableValkey
from chaos.scenario.conditions import REDIS_RULES, REDIS_USER
from chaos.simulation.kernel import audit
from chaos.simulation.valkey.commands import Command, CommandTable
from holdfast.devstack.host import temporary_directory
from holdfast.devstack.reaper import Reaper

# Real time after which a silent server counts as broken.
_ANSWER_SECONDS = 30.0
_FORGET_EVERYTHING = (
    [b"FLUSHALL"],
    [b"SCRIPT", b"FLUSH"],
    [b"FUNCTION", b"FLUSH"],
    [b"CONFIG", b"RESETSTAT"],
    [b"CONFIG", b"SET", b"maxmemory", b"0"],
    [b"ACL", b"DELUSER", REDIS_USER.encode()],
)


class ValkeyGone(ConnectionError):
    """The real server stopped answering although the run did not stop it."""


class RealConnection:
    """A blocking connection to the real server; its methods raise ValkeyGone."""

    def __init__(self, path: Path, password: str) -> None:
        self._reader = hiredis.Reader()
        with audit.real():
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(_ANSWER_SECONDS)
            try:
                self._socket.connect(str(path))
            except OSError as error:
                self._socket.close()
                raise ValkeyGone(f"no connection to Valkey: {error}") from error
        self.ask([b"AUTH", password.encode()])

    def ask(self, *commands: Command) -> tuple[bytes, list[Any]]:
        """Send bytes; return the replies raw and as values, including errors (ReplyError)."""
        raw = b""
        answers: list[Any] = []
        with audit.real():
            try:
                self._socket.sendall(b"".join(map(_packed, commands)))
                while len(answers) < len(commands):
                    data = self._socket.recv(1 << 16)
                    if not data:
                        raise ValkeyGone("Valkey closed the connection")
                    raw += data
                    self._reader.feed(data)
                    while (answer := self._reader.gets()) is not False:
                        answers.append(answer)
            except OSError as error:
                raise ValkeyGone(f"Valkey: {error}") from error
        return raw, answers

    def close(self) -> None:
        """Close the connection."""
        with audit.real():
            self._socket.close()


class SharedValkey:
    """A real server, one for all runs of this OS process; it keeps nothing on disk.

    A context manager: entering starts it, leaving stops it and removes its directory.
    """

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._directory: Path | None = None
        self._process: _Process | None = None
        self._control: RealConnection | None = None
        self._restricted = False
        self.commands = CommandTable(())

    def __enter__(self) -> Self:
        self._directory = temporary_directory("holdfast-simulation-")
        self._reaper.own_directory(self._directory)
        self._process = _Process(self._directory, reaper=self._reaper)
        try:
            self.start()
            self.commands = CommandTable(self.ask(b"COMMAND"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._hang_up()
        with audit.real():
            if self._process is not None:
                self._process.stop()
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
                self._reaper.disown_directory(self._directory)
        self._directory = self._process = None

    @property
    def pid(self) -> int | None:
        """The pid of the real server while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the server with no data."""
        with audit.real():
            self._entered().start()
        self._take_over()

    def restrict(self) -> None:
        """Create the user of the roles, until ``reset``."""
        self._restricted = True
        rules = REDIS_RULES.replace(">PASSWORD", "nopass").encode().split()
        self.ask(b"ACL", b"SETUSER", REDIS_USER.encode(), b"reset", *rules)

    def demote(self) -> None:
        """Let a new server take its place; open connections stay with the old one."""
        self._hang_up()
        with audit.real():
            self._entered().demote()
        self._take_over()

    def refused_as_replica(self) -> int:
        """Return how many commands demoted servers refused."""
        with audit.real():
            return self._entered().refused_as_replica()

    def kill(self) -> None:
        """Send SIGKILL and wait until the server has ended."""
        self._hang_up()
        with audit.real():
            self._entered().kill()

    def stop(self) -> None:
        """Shut the server down gracefully."""
        self._hang_up()
        with audit.real():
            self._entered().stop()

    def reset(self) -> None:
        """Start the server if needed and clear all its state between two runs."""
        self._restricted = False
        with audit.real():
            self._entered().retire()
        if self.pid is None:
            self.start()
        for command in _FORGET_EVERYTHING:
            self.ask(*command)

    def connect(self) -> RealConnection:
        """Open an authenticated connection.

        Raises:
            ValkeyGone: the server does not run.
        """
        process = self._entered()
        return RealConnection(process.socket, process.password)

    def ask(self, *command: bytes) -> Any:
        """Return the reply to one command over the arena's own connection.

        Raises:
            ValkeyGone: the server does not run.
            ReplyError: the server returned an error.
        """
        if self._control is None:
            raise ValkeyGone("Valkey does not run")
        answer = self._control.ask(list(command))[1][0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _take_over(self) -> None:
        """Connect to a server that has just started."""
        self._control = self.connect()
        if self._restricted:
            self.restrict()

    def _hang_up(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _entered(self) -> _Process:
        if self._process is None:
            raise RuntimeError("Valkey was not started: use it in a with statement")
        return self._process


def _packed(command: Command) -> bytes:
    # The stub declares one word of type Any; it takes any number of words and returns bytes.
    return bytes(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type]


class _Process(DemotableValkey):
    """A server with an additional socket and a fixed hash seed, so iteration order is stable."""

    @property
    def socket(self) -> Path:
        return self._files / "socket"

    @property
    def password(self) -> str:
        return self._password

    def _argv(self, port: int) -> list[str]:
        words = ["--hash-seed", "holdfast", "--activerehashing", "no"]
        return [*super()._argv(port), *words, "--unixsocket", str(self.socket)]
