"""Find, unpack or build Prometheus, with fakes of apt-get, dpkg and its programs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.devstack.go_build import GoModule
from observability import binaries

SCRIPTS = {
    "apt-get": """[ "$1" = download ] && touch prometheus.deb; true""",
    "dpkg": """mkdir -p "$3/usr/bin"
for name in prometheus promtool; do
  printf '#!/bin/sh\\nexit 0\\n' > "$3/usr/bin/$name"; chmod +x "$3/usr/bin/$name"
done""",
}


class Machine:
    """A PATH with fake programs, and a user who may be root."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = directory / "calls"
        self.cache = directory / "cache"
        self.builds = 0
        self._bin = directory / "bin"
        self._bin.mkdir()
        monkeypatch.setenv("PATH", f"{self._bin}:{directory / 'tools'}")
        (directory / "tools").mkdir()
        for tool in ("mkdir", "touch", "chmod", "true"):
            (directory / "tools" / tool).symlink_to(f"/bin/{tool}")
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(binaries, "built", self._build)

    def add(self, name: str, script: str = "") -> None:
        program = self._bin / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> "{self.calls}"\n{script}\n')
        program.chmod(0o755)

    def _build(self, module: GoModule, cache: Path) -> dict[str, Path]:
        self.builds += 1
        return {name: cache / f"{name}-{module.release}" for name in module.commands}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_installed_programs_are_used(machine: Machine) -> None:
    machine.add("prometheus")
    machine.add("promtool")
    found = binaries.prometheus(machine.cache)
    assert (found.server.name, found.promtool.name) == ("prometheus", "promtool")
    assert not machine.cache.exists()
    assert machine.builds == 0


def test_package_is_unpacked_once_and_not_installed(machine: Machine) -> None:
    for name, script in SCRIPTS.items():
        machine.add(name, script)
    found = binaries.prometheus(machine.cache)
    assert found.server.is_file()
    assert found.promtool.is_file()
    assert binaries.prometheus(machine.cache) == found
    calls = [line.split()[:2] for line in machine.calls.read_text().splitlines()]
    assert calls == [["apt-get", "update"], ["apt-get", "download"], ["dpkg", "--extract"]]
    assert [path.name for path in machine.cache.iterdir()] == [found.server.parent.name]
    assert machine.builds == 0


def test_built_from_source_without_the_package(machine: Machine) -> None:
    machine.add("apt-get", "exit 100")
    machine.add("dpkg", SCRIPTS["dpkg"])
    assert binaries.prometheus(machine.cache).promtool.name == "promtool-3.5.0"
    assert machine.builds == 1


def test_built_from_source_for_other_users_than_root(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, script in SCRIPTS.items():
        machine.add(name, script)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert binaries.prometheus(machine.cache).server.name == "prometheus-3.5.0"
    assert not machine.calls.exists()
