"""Control Postgres and Redis in containers, to inject faults into them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from chaos.compose.docker import DockerError, command
from chaos.live.servers import ServerControl, ServerFault
from chaos.live.socket_stats import REQUESTS

_ANSWER_SECONDS = 60.0
_LOOK_SECONDS = 0.05


class ContainerServer:
    """A server that the engine runs. ``port``: where the harness reaches it, bypassing all proxies.

    ``kind``: postgres or redis. ``address``: its URL. Every method blocks until it is done and
    raises DockerError.
    """

    def __init__(self, kind: str, container: str, port: int, address: str) -> None:
        self._kind = kind
        self._container = container
        self._port = port
        self._address = address

    def url(self, database: str = "", /) -> str:
        """Return the URL of the run's database, or of another one of the server."""
        if not database:
            return self._address
        return urlsplit(self._address)._replace(path=f"/{database}").geturl()

    @property
    def is_running(self) -> bool:
        return bool(self._state()["Running"])

    @property
    def is_paused(self) -> bool:
        """Whether the engine reports it as paused."""
        return bool(self._state()["Paused"])

    @property
    def pid(self) -> int | None:
        return self._state()["Pid"] or None

    def start(self) -> None:
        """Start it; return when it responds."""
        self._docker("start")
        give_up = time.monotonic() + _ANSWER_SECONDS
        while not self._answers():
            if time.monotonic() > give_up:
                raise DockerError(
                    f"{self._kind} does not respond {_ANSWER_SECONDS:.0f} s after it started"
                )
            time.sleep(_LOOK_SECONDS)

    def stop(self) -> None:
        """Stop it gracefully, with the stop signal of its image."""
        self._docker("stop")

    def kill(self) -> None:
        """Kill all of its processes."""
        self._docker("kill", "--signal", "KILL")

    def pause(self) -> Collection[int]:
        """Pause all of its processes with the engine's freezer."""
        self._docker("pause")
        pid = self.pid
        return [pid] if pid else []

    def resume(self) -> None:
        self._docker("unpause")

    def _answers(self) -> bool:
        # Until the server listens, the engine accepts connections and closes them.
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
    """Asks the engine for paused processes, which are not in this machine's /proc."""

    def is_stopped(self, server: ServerControl, pid: int) -> bool:
        return isinstance(server, ContainerServer) and server.is_paused and server.pid == pid
