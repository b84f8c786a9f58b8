"""Provide Prometheus and promtool: installed ones, from Debian's package, or built.

The package is only unpacked: nothing is installed on the machine and no service is started.
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
    version="v0.305.0",  # the Go module version of release 3.5.0
    checksum="h1:UO/LsM32/E9yBDtvQj8tN+WwhbyWKR10lO35vmFLx0U=",
    commands={"prometheus": "./cmd/prometheus", "promtool": "./cmd/promtool"},
    release="3.5.0",
    stamp="github.com/prometheus/common/version.Version",
    oldest_go=(1, 23),
    takes="about 5 minutes",
)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Paths of both programs, of one version."""

    server: Path
    promtool: Path


def prometheus(cache: Path) -> Prometheus:
    """Return the programs on PATH, or those in ``cache``, which is filled first if necessary.

    Debian's package takes seconds but needs root; a build takes minutes, once.

    Raises:
        GoBuildError: the programs could not be built.
    """
    programs = {name: Path(path) for name in _MODULE.commands if (path := shutil.which(name))}
    if programs.keys() != _MODULE.commands.keys():
        programs = _from_debian(cache / "prometheus-debian") or built(_MODULE, cache)
    return Prometheus(programs["prometheus"], programs["promtool"])


def _from_debian(target: Path) -> dict[str, Path]:
    """Return the programs of Debian's package, unpacked once; empty if that is not possible."""
    if not target.exists():
        if os.geteuid() != 0 or not (shutil.which("apt-get") and shutil.which("dpkg")):
            return {}
        try:
            _unpack(target)
        except (OSError, subprocess.CalledProcessError) as error:
            _log(f"cannot fetch Debian's package, building instead: {error}")
            return {}
    return {name: target / name for name in _MODULE.commands}


def _unpack(target: Path) -> None:
    _log("fetching Debian's package (unpacked, not installed)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prometheus-deb.", dir=target.parent) as name:
        scratch = Path(name)
        _run("apt-get", "update", "--quiet")
        _run("apt-get", "download", "prometheus", cwd=scratch)
        _run("dpkg", "--extract", str(next(scratch.glob("*.deb"))), str(scratch / "tree"))
        programs = scratch / "tree" / "usr" / "bin"
        for program in _MODULE.commands:
            _run(str(programs / program), "--version")
        with contextlib.suppress(OSError):  # another process unpacked it first
            programs.rename(target)


def _run(*argv: str, cwd: Path | None = None) -> None:
    subprocess.run(argv, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _log(line: str) -> None:
    sys.stderr.write(f"prometheus: {line}\n")
    sys.stderr.flush()
