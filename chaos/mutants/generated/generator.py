"""Draw mutants: determined by the seed and the sources."""

from __future__ import annotations

import difflib
import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePath

from chaos.mutants.generated import python_operators
from chaos.mutants.generated.change import SourceChange
from chaos.mutants.mutant import Edit, MutantError

PRODUCT = "system/holdfast"
# Left out: what only observes (instrumentation, telemetry), what is not part of a deployment
# (devstack, tools), settings, released migrations, which never change, and the description of the
# tables that a test compares with them, because no process reads it.
FOLDERS = ("store", "scheduler", "worker", "queue", "api", "handlers", "model", "runtime")
_LEFT_OUT = ("migrations", "schema.py")


@dataclass(frozen=True, slots=True)
class GeneratedMutant:
    """One change to one file.

    ``name``: stable while the changed line and its definition keep their text, whatever else
    changes. ``line``: of the start of the change, from 1; ``diff``: unified.
    """

    name: str
    file: str
    line: int
    change: SourceChange
    diff: str
    edits: tuple[Edit, ...]

    @property
    def operator(self) -> str:
        """The kind of the change."""
        return self.change.operator

    @property
    def folder(self) -> str:
        """The folder of the product that it is in."""
        return PurePath(self.file).relative_to(PRODUCT).parts[0]


def product_files(sources: Path, *folders: str) -> list[str]:
    """Return the files to mutate (of some folders only), in order, relative to ``sources``."""
    return sorted(
        str(path.relative_to(sources))
        for folder in folders or FOLDERS
        for path in (sources / PRODUCT / folder).rglob("*.py")
        if not set(_LEFT_OUT) & set(path.parts)
    )


def draw(sources: Path, number: int, seed: int) -> list[GeneratedMutant]:
    """Draw ``number`` mutants; more of the same seed begin with the same ones.

    The folder is drawn first, then the kind of the operator, then its place: otherwise most mutants
    would be in the largest folders, and of the few kinds that apply nearly everywhere.

    Raises:
        MutantError: the sources do not have that many.
    """
    rng = random.Random(f"mutants {seed}")
    folders = {folder: kinds for folder in FOLDERS if (kinds := _by_kind(sources, folder))}
    drawn: list[GeneratedMutant] = []
    while len(drawn) < number:
        if not folders:
            raise MutantError(f"{PRODUCT} has only {len(drawn)} generated mutants; ask for fewer.")
        folder = rng.choice(sorted(folders))
        kind = rng.choice(sorted(folders[folder]))
        places = folders[folder][kind]
        file, change, occurrence = places.pop(rng.randrange(len(places)))
        drawn.append(_mutant(sources, file, change, occurrence))
        if not places:
            del folders[folder][kind]
        if not folders[folder]:
            del folders[folder]
    return drawn


def _by_kind(sources: Path, folder: str) -> dict[str, list[tuple[str, SourceChange, int]]]:
    """Return (file, change, occurrence) by kind; an operator of SQL is of the kind of Python's.

    The occurrence counts the equal changes of one definition.
    """
    kinds: defaultdict[str, list[tuple[str, SourceChange, int]]] = defaultdict(list)
    for file in product_files(sources, folder):
        source = (sources / file).read_bytes()
        seen: defaultdict[tuple[str, ...], int] = defaultdict(int)
        for change in python_operators.changes(source):
            key = _key(source, change)
            kinds[change.operator.removeprefix("sql ")].append((file, change, seen[key]))
            seen[key] += 1
    return dict(kinds)


def _key(source: bytes, change: SourceChange) -> tuple[str, ...]:
    """Return what identifies a change in its file, up to its occurrence."""
    start, end = _lines(source, change.start, change.end)
    old, new = source[start:end].decode(), _new(source, change, start, end)
    return change.scope, change.operator, old, new


def _lines(source: bytes, start: int, end: int) -> tuple[int, int]:
    """Widen a span to whole lines."""
    first = source.rfind(b"\n", 0, start) + 1
    last = source.find(b"\n", end)
    return first, len(source) if last < 0 else last + 1


def _mutant(sources: Path, file: str, change: SourceChange, occurrence: int) -> GeneratedMutant:
    source = (sources / file).read_bytes()
    identity = "\0".join((file, *_key(source, change), str(occurrence)))
    return GeneratedMutant(
        name=hashlib.sha256(identity.encode()).hexdigest()[:10],
        file=file,
        line=source.count(b"\n", 0, change.start) + 1,
        change=change,
        diff=_diff(file, source, change),
        edits=(_edit(file, source, change),),
    )


def _diff(file: str, source: bytes, change: SourceChange) -> str:
    texts = source, change.applied(source)
    old, new = (text.decode().splitlines(keepends=True) for text in texts)
    return "".join(difflib.unified_diff(old, new, f"a/{file}", f"b/{file}", n=2))


def _edit(file: str, source: bytes, change: SourceChange) -> Edit:
    """Widen the change, line by line, to a text that occurs exactly once."""
    start, end = _lines(source, change.start, change.end)
    while source.count(source[start:end]) > 1:
        start, end = _lines(source, max(start - 1, 0), end)
    return Edit(file, source[start:end].decode(), _new(source, change, start, end))


def _new(source: bytes, change: SourceChange, start: int, end: int) -> str:
    """Return the changed text between ``start`` and ``end``."""
    return source[start : change.start].decode() + change.new + source[change.end : end].decode()
