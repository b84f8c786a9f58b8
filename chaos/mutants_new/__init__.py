"""Mutants of the system: one guard switched off in a copy of its source. Each must be caught.

A run that never goes red proves nothing. The catalogue is split by the file whose guards it
removes; ``GUARDS`` are those without a mutant, each with its reason. ``plant`` copies the packages,
applies exact replacements (it fails loudly where the text is not there exactly once) and returns
the tree; the roles then run from it by PYTHONPATH. The harness itself always runs from the real
sources.
"""

from __future__ import annotations

from types import MappingProxyType

from chaos.mutants import api, queue, scans, scheduler, statements, worker
from chaos.mutants.mutant import PACKAGES, Edit, Mutant, MutantError, Unplanted, copy, plant

__all__ = [
    "MUTANTS",
    "PACKAGES",
    "UNPLANTED",
    "Edit",
    "Mutant",
    "MutantError",
    "Unplanted",
    "copy",
    "find",
    "plant",
]

_FILES = (statements, scans, queue, scheduler, worker, api)

MUTANTS = MappingProxyType({mutant.name: mutant for file in _FILES for mutant in file.MUTANTS})
UNPLANTED = tuple(guard for file in _FILES for guard in file.UNPLANTED)


def find(name: str) -> Mutant:
    """The mutant of that name; raises MutantError with the names there are."""
    if name not in MUTANTS:
        raise MutantError(f"no mutant {name!r}; there are: {', '.join(MUTANTS)}")
    return MUTANTS[name]
