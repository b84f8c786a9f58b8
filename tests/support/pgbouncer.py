"""PgBouncer in front of a database, where it is installed (`apt-get install pgbouncer`)."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

from holdfast.devstack.reaper import Reaper
from holdfast.devstack.server_process import ServerProcess

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


class PgBouncer(ServerProcess):
    """Transaction mode, with two server connections; statements prepared before may be gone."""

    name = "pgbouncer"

    def __init__(self, data_dir: Path, database_url: str, *, reaper: Reaper) -> None:
        super().__init__(data_dir, reaper=reaper)
        self._target = urlsplit(database_url)

    @property
    def url(self) -> str:
        """The URL of the database through it."""
        netloc = self._target.netloc.rpartition(":")[0]
        return self._target._replace(netloc=f"{netloc}:{self.port}").geturl()

    def _prepare(self) -> None:
        """Nothing is kept from earlier runs."""

    def _argv(self, port: int) -> list[str]:
        target = self._target
        users = self.data_dir / "users.txt"
        self._write_private(users, f'"{target.username}" "{target.password}"\n')
        configuration = self.data_dir / "pgbouncer.ini"
        self._write_private(
            configuration,
            f"[databases]\n* = host={target.hostname} port={target.port}\n[pgbouncer]\n"
            f"listen_addr=127.0.0.1\nlisten_port={port}\nunix_socket_dir=\nauth_type=plain\n"
            f"auth_file={users}\npool_mode=transaction\ndefault_pool_size=2\n",
        )
        return [str(PROGRAM), str(configuration)]

    def _answers(self, port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0
