"""Define mutants and plant them in a copy of the sources."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chaos.errors import ChaosError

PACKAGES = ("system", "observability", "chaos")
SOURCES = Path(__file__).parent.parent.parent
# As a killer: the run proved nothing, and says why. Only for mutants of the harness.
UNKNOWN = "unknown"


class MutantError(ChaosError):
    """A mutant does not match the sources; the message names the file and the text."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replaces ``old``, which occurs exactly once in ``file``, by ``new``."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """One removed guard; ``scenario`` must end false with it, by one of ``killers``.

    A mutant of the harness may also name ``UNKNOWN``: then a doubt of the checker kills it.

    ``guard``: the rule that is removed; ``what``: the change that removes it. ``runs_max``: the
    number of seeds to try, because triggering the bug may take a race. ``covered_by``: a second
    guard that prevents the same bug, so the mutant survives; ``pair`` names the mutant
    without both, which must be killed. ``unlive``: why the live arena does not kill it reliably;
    then the simulation must.
    """

    name: str
    guard: str
    what: str
    scenario: str
    killers: tuple[str, ...]
    edits: tuple[Edit, ...]
    runs_max: int = 3
    covered_by: str = ""
    pair: str = ""
    unlive: str = ""

    @property
    def file(self) -> str:
        """The file of the guard."""
        return self.edits[0].file

    @property
    def of_harness(self) -> bool:
        """Whether it is a bug of the harness, not of the system."""
        return self.file.startswith("chaos/")


class Plantable(Protocol):
    """What ``plant`` needs of a mutant."""

    @property
    def name(self) -> str: ...

    @property
    def edits(self) -> tuple[Edit, ...]: ...


@dataclass(frozen=True, slots=True)
class Unplanted:
    """A guard without a mutant, with the reason."""

    guard: str
    file: str
    why: str


def both(
    name: str,
    *mutants: Mutant,
    killers: tuple[str, ...],
    scenario: str = "",
) -> Mutant:
    """Combine ``mutants``, whose guards cover each other, into one without any of them."""
    return Mutant(
        name=name,
        guard=" and ".join(mutant.guard for mutant in mutants),
        what="; ".join(mutant.what for mutant in mutants),
        scenario=scenario or mutants[0].scenario,
        killers=killers,
        edits=tuple(edit for mutant in mutants for edit in mutant.edits),
    )


def of_harness(
    name: str, guard: str, what: str, scenario: str, killers: tuple[str, ...], *edits: Edit
) -> Mutant:
    """Return a mutant of the harness, which a doubt kills, too."""
    return Mutant(
        name=name,
        guard=guard,
        what=what,
        scenario=scenario,
        killers=(*killers, UNKNOWN),
        edits=edits,
        unlive="there the harness runs from the real sources",
    )


def import_path(tree: Path) -> str:
    """Return the PYTHONPATH under which a process imports our packages from ``tree``."""
    return os.pathsep.join([str(tree), str(tree / "system")])


def copy(sources: Path, tree: Path) -> Path:
    """Copy the packages that roles run from into ``tree``; return ``tree``."""
    ignored = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(sources / package, tree / package, ignore=ignored)
    return tree


def plant(mutant: Plantable, sources: Path, tree: Path) -> Path:
    """Copy the packages of ``sources`` into ``tree`` with the mutant's edits; return ``tree``.

    Raises:
        MutantError: a text to replace does not occur exactly once in its file.
    """
    copy(sources, tree)
    for edit in mutant.edits:
        path = tree / edit.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        found = text.count(edit.old)
        if found != 1:
            raise MutantError(
                f"mutant {mutant.name} does not match {edit.file}: its text occurs {found} times "
                f"instead of once. Update it in chaos/mutants/:\n{edit.old}"
            )
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")
    return tree
