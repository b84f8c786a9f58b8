"""Provide Prometheus and promtool: installed ones, from Debian's package, or built."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from holdfast.devstack.go_build import GoModule, built
from observability.debian import unpacked

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
        target = cache / "prometheus-debian"
        programs = unpacked("prometheus", _MODULE.commands, target) or built(_MODULE, cache)
    return Prometheus(programs["prometheus"], programs["promtool"])
