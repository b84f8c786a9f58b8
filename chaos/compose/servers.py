"""Postgres and Redis as containers, with what a strike needs of a server."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from chaos.compose.docker import DockerError, command
from chaos.live.servers import ServerControl, ServerFault
from chaos.live.wire import REQUESTS

_ANSWER_SECONDS = 60.0
_LOOK_SECONDS = 0.05


class ContainerServer:
    """A server that the engine runs. ``port``: where the harness reaches it, around all proxies.

    ``kind``: postgres or redis. ``address``: its URL. Every method blocks until it is done and
    raises DockerError.
    """

    def __init__(self, kind: str, container: str, port: int, address: str) -> None:
        self._kind = kind
        self._container = container
        self._port = port
        self._address = address

    def url(self, database: str = "", /) -> str:
        """Where the harness connects: to the run's database, or to another one of the server."""
        if not database:
            return self._address
        return urlsplit(self._address)._replace(path=f"/{database}").geturl()

    @property
    def is_running(self) -> bool:
        return bool(self._state()["Running"])

    @property
    def is_paused(self) -> bool:
        """As the engine tells it."""
        return bool(self._state()["Paused"])

    @property
    def pid(self) -> int | None:
        return self._state()["Pid"] or None

    def start(self) -> None:
        """Returns when it answers."""
        self._docker("start")
        give_up = time.monotonic() + _ANSWER_SECONDS
        while not self._answers():
            if time.monotonic() > give_up:
                raise DockerError(
                    f"{self._kind} does not answer {_ANSWER_SECONDS:.0f} s after it started"
                )
            time.sleep(_LOOK_SECONDS)

    def stop(self) -> None:
        """As its image is stopped: gracefully."""
        self._docker("stop")

    def kill(self) -> None:
        """All of its processes at once."""
        self._docker("kill", "--signal", "KILL")

    def pause(self) -> Collection[int]:
        """The engine's freezer holds all of its processes."""
        self._docker("pause")
        pid = self.pid
        return [pid] if pid else []

    def resume(self) -> None:
        self._docker("unpause")

    def _answers(self) -> bool:
        # Before the server listens, the engine accepts and closes.
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1.0) as client:
                client.sendall(REQUESTS[self._kind])
                return bool(client.recv(1))
        except OSError:
            return False

    def _docker(self, *argv: str) -> None:
        command(["docker", *argv, self._container])

    def _state(self) -> dict[str, Any]:
        found = command(["docker", "inspect", "--format", "{{json .State}}", self._container])
        state: dict[str, Any] = json.loads(found.stdout)
        return state


class ContainerServerFault(ServerFault):
    """What is held is told by the engine: its processes are not in this machine's /proc."""

    def is_stopped(self, server: ServerControl, pid: int) -> bool:
        return isinstance(server, ContainerServer) and server.is_paused and server.pid == pid
