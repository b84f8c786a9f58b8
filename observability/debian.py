"""Fetch programs from Debian's packages, which are only unpacked.

Nothing is installed on the machine and no service is started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

_FOLDERS = ("usr/bin", "usr/sbin")


def unpacked(package: str, programs: Collection[str], target: Path) -> dict[str, Path]:
    """Return the programs of a package by name, unpacked into ``target`` once.

    Empty if that is not possible: without root or apt-get, or if they do not run here.
    """
    if not target.exists():
        if os.geteuid() != 0 or not (shutil.which("apt-get") and shutil.which("dpkg")):
            return {}
        try:
            _unpack(package, programs, target)
        except (OSError, subprocess.CalledProcessError) as error:
            _log(package, f"cannot fetch Debian's package: {error}")
            return {}
    return {name: target / name for name in programs}


def _unpack(package: str, programs: Collection[str], target: Path) -> None:
    _log(package, "fetching Debian's package (unpacked, not installed)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{package}-deb.", dir=target.parent) as name:
        scratch = Path(name)
        _run("apt-get", "update", "--quiet")
        _run("apt-get", "download", package, cwd=scratch)
        _run("dpkg", "--extract", str(next(scratch.glob("*.deb"))), str(scratch / "tree"))
        folders = [scratch / "tree" / folder for folder in _FOLDERS]
        found = next(folder for folder in folders if folder.is_dir())
        for program in programs:
            _run(str(found / program), "--version")
        with contextlib.suppress(OSError):  # another process unpacked it first
            found.rename(target)


def _run(*argv: str, cwd: Path | None = None) -> None:
    subprocess.run(argv, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _log(package: str, line: str) -> None:
    sys.stderr.write(f"{package}: {line}\n")
    sys.stderr.flush()
