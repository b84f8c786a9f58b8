"""A virtual environment for each peer: their pins conflict. Made once, kept in a cache."""

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
    """``peers`` in HOLDFAST_CACHE, or in ``holdfast`` below the user's cache directory."""
    if chosen := os.environ.get("HOLDFAST_CACHE"):
        return Path(chosen).absolute() / "peers"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "holdfast" / "peers"


async def environment_of(name: str, cache: Path) -> Path:
    """Its interpreter. What was made from the same lock and interpreter before is taken.

    Raises:
        LoadtestError: it cannot be made.
    """
    lock = LOCKS / f"{name}.txt"
    digest = hashlib.sha256(lock.read_bytes() + f"{sys.version} {sys.base_prefix}".encode())
    home = cache / f"{name}-{digest.hexdigest()[:12]}"
    if not home.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        # Not in its place before it is complete. A virtual environment may move: what its scripts
        # say of their interpreter is not used.
        scratch = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
        try:
            await _run(name, Path(sys.executable), ["venv", str(scratch)])
            install = ["pip", "install", "--quiet", "--disable-pip-version-check"]
            install += ["--require-hashes", "--requirement", str(lock)]
            await _run(name, scratch / "bin" / "python", install)
            with contextlib.suppress(OSError):  # another run was faster
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
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            await end(process)
    if process.returncode:
        told = said.decode(errors="replace").strip()[-2000:]
        raise LoadtestError(f"the environment of {name} cannot be made:\n{told}")
