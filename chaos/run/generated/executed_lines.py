"""Which lines of the product something executed: measured by coverage, cached by sources."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from coverage import CoverageData

from chaos.mutants.generated.probes import Lines

CACHE = Path(".holdfast/executed-lines")
# Settings of coverage. SQLAlchemy awaits inside greenlets, whose lines are missed otherwise.
_SETTINGS = """[run]
source = holdfast
concurrency = greenlet, thread
"""


def digest(sources: Path, folders: Iterable[str]) -> str:
    """Return a checksum of all files of Python and YAML in ``folders``."""
    total = hashlib.sha256()
    for folder in folders:
        for path in sorted((sources / folder).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                total.update(str(path.relative_to(sources)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]


def settings_file(directory: Path) -> Path:
    """Write the settings of coverage that measure the product alone; return the file."""
    path = directory / "coverage.ini"
    path.write_text(_SETTINGS, encoding="utf-8")
    return path


def read(data: Path, root: Path) -> dict[str, list[int]]:
    """Return the executed lines by file, relative to ``root``, of a coverage data file."""
    measured = CoverageData(str(data))
    measured.read()
    return {_name(file, root): sorted(measured.lines(file) or ()) for file in _files(measured)}


def read_by_context(data: Path, root: Path) -> dict[str, dict[str, list[int]]]:
    """Return the executed lines by context and file."""
    measured = CoverageData(str(data))
    measured.read()
    found: dict[str, dict[str, list[int]]] = {}
    for file in _files(measured):
        for line, contexts in measured.contexts_by_lineno(file).items():
            for context in contexts:
                found.setdefault(context, {}).setdefault(_name(file, root), []).append(line)
    return found


def executes(lines: Mapping[str, Iterable[int]], probes: Lines) -> bool:
    """Return whether any of the probes is among the executed lines."""
    return any(not wanted.isdisjoint(lines.get(file, ())) for file, wanted in probes.items())


def _files(measured: CoverageData) -> list[str]:
    return sorted(measured.measured_files())


def _name(file: str, root: Path) -> str:
    return str(Path(file).relative_to(root))
