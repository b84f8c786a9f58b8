"""Create a cached virtual environment per peer, because their pins conflict."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from pathlib import Path

from loadtest.processes import LoadtestError, end

LOCKS = Path(__file__).parent / "locks"


def default_cache() -> Path:
    """Return ``peers`` below HOLDFAST_CACHE, or below ``holdfast`` in the user's cache."""
    if chosen := os.environ.get("HOLDFAST_CACHE"):
        return Path(chosen).absolute() / "peers"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "holdfast" / "peers"


async def environment_of(name: str, cache: Path) -> Path:
    """Return the interpreter of the peer's environment, which is created if necessary.

    The key of the cache is the lock file and the interpreter.

    Raises:
        LoadtestError: the environment cannot be created.
    """
    lock = LOCKS / f"{name}.txt"
    digest = hashlib.sha256(lock.read_bytes() + f"{sys.version} {sys.base_prefix}".encode())
    home = cache / f"{name}-{digest.hexdigest()[:12]}"
    if not home.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        # Moved to its final path when complete. Moving is safe: the scripts, which contain the
        # path of their interpreter, are not used.
        scratch = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
        try:
            await _run(name, Path(sys.executable), ["venv", str(scratch)])
            install = ["pip", "install", "--quiet", "--disable-pip-version-check"]
            install += ["--require-hashes", "--requirement", str(lock)]
            await _run(name, scratch / "bin" / "python", install)
            with contextlib.suppress(OSError):  # another process created it
                scratch.rename(home)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return home / "bin" / "python"


async def _run(name: str, python: Path, arguments: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(str(python), "-m", *arguments),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            await end(process)
    if process.returncode:
        tail = output.decode(errors="replace").strip()[-2000:]
        raise LoadtestError(f"cannot create the environment of {name}:\n{tail}")
