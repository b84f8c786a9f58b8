"""The real Prometheus and promtool: where they are installed, out of Debian's package, or built.

Nothing is installed on the machine and no service is started: the package is only unpacked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from holdfast.devstack.go_build import GoModule, built

_MODULE = GoModule(
    title="Prometheus",
    path="github.com/prometheus/prometheus",
    version="v0.305.0",  # so are the libraries of 3.5.0 numbered
    checksum="h1:UO/LsM32/E9yBDtvQj8tN+WwhbyWKR10lO35vmFLx0U=",
    commands={"prometheus": "./cmd/prometheus", "promtool": "./cmd/promtool"},
    release="3.5.0",
    stamp="github.com/prometheus/common/version.Version",
    oldest_go=(1, 23),
    takes="about 5 minutes",
)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Both programs of one version."""

    server: Path
    promtool: Path


def prometheus(cache: Path) -> Prometheus:
    """Prometheus and promtool of this machine, or else of ``cache``, where they are put first.

    Debian's package takes seconds where root may update its lists; a build takes minutes, once.

    Raises:
        GoBuildError: neither could be had.
    """
    programs = {name: Path(at) for name in _MODULE.commands if (at := shutil.which(name))}
    if programs.keys() != _MODULE.commands.keys():
        programs = _from_debian(cache / "prometheus-debian") or built(_MODULE, cache)
    return Prometheus(programs["prometheus"], programs["promtool"])


def _from_debian(ready: Path) -> dict[str, Path]:
    """The programs of Debian's package, unpacked once; none where that cannot be done."""
    if not ready.exists():
        if os.geteuid() != 0 or not (shutil.which("apt-get") and shutil.which("dpkg")):
            return {}
        try:
            _unpack(ready)
        except (OSError, subprocess.CalledProcessError) as error:
            _say(f"Debian's package cannot be had, so it is built: {error}")
            return {}
    return {name: ready / name for name in _MODULE.commands}


def _unpack(ready: Path) -> None:
    _say("fetching Debian's package (it is not installed, only unpacked)")
    ready.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prometheus-deb.", dir=ready.parent) as name:
        scratch = Path(name)
        _run("apt-get", "update", "--quiet")
        _run("apt-get", "download", "prometheus", cwd=scratch)
        _run("dpkg", "--extract", str(next(scratch.glob("*.deb"))), str(scratch / "tree"))
        programs = scratch / "tree" / "usr" / "bin"
        for program in _MODULE.commands:
            _run(str(programs / program), "--version")
        with contextlib.suppress(OSError):  # another process was first: its copy is as good
            programs.rename(ready)


def _run(*argv: str, cwd: Path | None = None) -> None:
    subprocess.run(argv, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _say(line: str) -> None:
    sys.stderr.write(f"prometheus: {line}\n")
    sys.stderr.flush()
