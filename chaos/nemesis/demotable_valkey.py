"""A Valkey that can be demoted, as by a failover."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import redis

from chaos.scenario.conditions import REDIS_USER
from holdfast.devstack.host import HOST, EmbeddedError, free_port
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.servers import EmbeddedValkey

_SECONDS = 5.0


class DemotableValkey(EmbeddedValkey):
    """``demote`` gives its address to another, empty server.

    ``lines``: more of its configuration; ``PASSWORD`` stands for its password.
    """

    def __init__(self, data_dir: Path, *, reaper: Reaper, lines: Sequence[str] = ()) -> None:
        super().__init__(data_dir, reaper=reaper)
        self._lines = lines
        self._demoted: dict[int, subprocess.Popen[bytes]] = {}

    def user_url(self, port: int) -> str:
        """Return the URL for roles that connect as ``REDIS_USER``; ``port``: of a proxy."""
        return f"redis://{REDIS_USER}:{self._password}@{HOST}:{port}/0"

    def demote(self) -> None:
        """Make the server a replica under another port, and start another one under its own.

        It keeps its connections, answers reads and refuses writes, until ``retire``.
        """
        if self._process is None:
            raise EmbeddedError("a server that does not run cannot be demoted")
        port = free_port()
        with self._client(self.port) as old:
            old.config_resetstat()
            old.replicaof(HOST, "1")  # where no primary is
            old.config_set("port", port)
        self._demoted[port], self._process = self._process, None
        self.start()
        with self._client(port) as old:
            for client in old.client_list():
                if "O" in client["flags"]:  # the harness watches the server, not the connection
                    old.client_kill_filter(_id=client["id"])

    def refused_as_replica(self) -> int:
        """Return how many commands the demoted servers refused because they are replicas."""
        found = 0
        for port in self._demoted:
            with self._client(port) as old:
                stats = old.info("errorstats")
                found += int(stats.get("errorstat_READONLY", {}).get("count", 0))
        return found

    def retire(self) -> None:
        """End the demoted servers."""
        demoted, self._demoted = self._demoted, {}
        for process in demoted.values():
            process.kill()
            process.wait()
            self._active_reaper().forget(process)

    def stop(self) -> None:
        self.retire()
        super().stop()

    def _argv(self, port: int) -> list[str]:
        argv = super()._argv(port)
        more = "".join(f"{line}\n" for line in self._lines).replace("PASSWORD", self._password)
        with Path(argv[1]).open("a", encoding="utf-8") as configuration:
            configuration.write(more)
        return argv

    def _client(self, port: int) -> redis.Redis:
        return redis.Redis.from_url(self.url(port=port), socket_timeout=_SECONDS)
