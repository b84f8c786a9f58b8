"""What a mutant is, and how it is planted in a copy of the sources."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from chaos.errors import ChaosError

PACKAGES = ("system", "observability", "chaos")
SOURCES = Path(__file__).parent.parent.parent


class MutantError(ChaosError):
    """A mutant that does not fit the sources any more; the message names file and text."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace ``old``, which stands exactly once in ``file``, by ``new``."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """``what`` is done to ``guard``; ``scenario`` must end false with it, by one of ``killers``.

    ``runs_max``: the scenario is run under so many seeds at most until one kills it, since what a
    guard prevents may need a race. ``covered_by``: the second guard that still holds when this one
    is gone, so that it survives; ``pair`` is the mutant without both, which must be killed.
    ``unlive``: why the live arena cannot be relied on to show it; then it must die in simulation.
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
        """Where the guard stands."""
        return self.edits[0].file


@dataclass(frozen=True, slots=True)
class Unplanted:
    """A guard without a mutant, and why there is none."""

    guard: str
    file: str
    why: str


def both(
    name: str,
    *mutants: Mutant,
    killers: tuple[str, ...],
    scenario: str = "",
) -> Mutant:
    """The mutant without the guards of all of ``mutants``, each of which covers the others."""
    return Mutant(
        name=name,
        guard=" and ".join(mutant.guard for mutant in mutants),
        what="; ".join(mutant.what for mutant in mutants),
        scenario=scenario or mutants[0].scenario,
        killers=killers,
        edits=tuple(edit for mutant in mutants for edit in mutant.edits),
    )


def copy(sources: Path, tree: Path) -> Path:
    """Copy the packages that roles run from into ``tree``; returns ``tree``."""
    ignored = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(sources / package, tree / package, ignore=ignored)
    return tree


def plant(mutant: Mutant, sources: Path, tree: Path) -> Path:
    """Copy the packages of ``sources`` into ``tree`` with the mutant's edits; returns ``tree``.

    Raises:
        MutantError: a text to replace is not in its file exactly once.
    """
    copy(sources, tree)
    for edit in mutant.edits:
        path = tree / edit.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        found = text.count(edit.old)
        if found != 1:
            raise MutantError(
                f"mutant {mutant.name} does not fit {edit.file} any more: its text stands there "
                f"{found} times, not once. Bring it up to date in chaos/mutants/:\n{edit.old}"
            )
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")
    return tree
