"""PgBouncer in front of a Postgres: the installed one, or that of Debian's package."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

from chaos.errors import ChaosError
from holdfast.devstack.host import cache_directory, reachable
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.server_process import ServerProcess
from observability.debian import unpacked

_NAME = "pgbouncer"
_CLIENTS_MAX = 500
# The second one for root: the server runs as another user, who cannot read the cache of root.
_CACHES = (cache_directory(), Path("/var/cache/holdfast"))


class NoPgBouncer(ChaosError):
    """PgBouncer is neither installed nor available as a package."""


def program() -> Path:
    """Return the installed program, or that of Debian's package, unpacked once.

    Raises:
        NoPgBouncer: there is none.
    """
    if installed := shutil.which(_NAME) or shutil.which(_NAME, path="/usr/sbin"):
        return Path(installed)
    cache = next((place for place in _CACHES if reachable(place)), _CACHES[0])
    if found := unpacked(_NAME, [_NAME], cache / "pgbouncer-debian"):
        return found[_NAME]
    raise NoPgBouncer("PgBouncer is not installed (apt-get install pgbouncer)")


class PgBouncer(ServerProcess):
    """Transaction mode; statements prepared before may be gone.

    ``pool``: the number of its connections to each database.
    """

    name = _NAME

    def __init__(self, data_dir: Path, database_url: str, *, reaper: Reaper, pool: int = 2) -> None:
        super().__init__(data_dir, reaper=reaper)
        self._target = urlsplit(database_url)
        self._pool = pool
        self._program = program()

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
            f"auth_file={users}\npool_mode=transaction\ndefault_pool_size={self._pool}\n"
            f"max_client_conn={_CLIENTS_MAX}\n",
        )
        return [str(self._program), str(configuration)]

    def _answers(self, port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0
