"""Mutants: each removes one guard in a copy of the sources and must be killed.

A testbed that never fails proves nothing. The catalogue has one module per guarded file or
folder of the product, one per promise to users that a mix-up would break, and two (``harness``,
``harness_load``) for bugs of the testbed itself. ``UNPLANTED`` lists the guards without a mutant,
each with its reason; README.md records who killed the promises and the testbed's bugs.
``plant`` copies the packages, applies exact replacements (each text must occur exactly once) and
returns the tree, from which the roles run by PYTHONPATH. The harness runs from the real sources,
except in the worker processes of the simulation.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from chaos.mutants import (
    answers,
    api,
    dispatch,
    effects,
    ends,
    field,
    grants,
    harness,
    harness_load,
    hints,
    instrumentation,
    requests,
    resent,
    scans,
    scheduler,
    single,
    submit,
    transitions,
    worker,
)
from chaos.mutants.mutant import (
    PACKAGES,
    SOURCES,
    UNKNOWN,
    Edit,
    Mutant,
    MutantError,
    Unplanted,
    copy,
    import_path,
    plant,
)

__all__ = [
    "MUTANTS",
    "PACKAGES",
    "SOURCES",
    "UNKNOWN",
    "UNPLANTED",
    "Edit",
    "Mutant",
    "MutantError",
    "Unplanted",
    "catalogue",
    "copy",
    "find",
    "import_path",
    "plant",
]

# Each module lists guards with and without a mutant.
_GUARDS = (
    transitions,
    single,
    resent,
    submit,
    scans,
    hints,
    scheduler,
    worker,
    effects,
    api,
    instrumentation,
    field,
)
# Each module lists mutants of one promise to users: values, limits, times, order and answers.
_PROMISES = (requests, dispatch, grants, ends, answers)
# Bugs of the testbed itself.
_HARNESS = (harness_load, harness)

MUTANTS: Mapping[str, Mutant] = MappingProxyType(
    {mutant.name: mutant for file in (*_GUARDS, *_PROMISES, *_HARNESS) for mutant in file.MUTANTS}
)
UNPLANTED = tuple(guard for file in _GUARDS for guard in file.UNPLANTED)


def catalogue() -> str:
    """List every guard by file: its mutant and what kills it, or why there is none."""
    lines: list[str] = []
    files = dict.fromkeys([m.file for m in MUTANTS.values()] + [g.file for g in UNPLANTED])
    for file in files:
        lines.append(file)
        for mutant in MUTANTS.values():
            if mutant.file == file:
                fate = _description(mutant)
                lines.append(f"  {mutant.guard}\n      {mutant.name}: {mutant.what} ({fate})")
        lines += [f"  {g.guard}\n      no mutant: {g.why}" for g in UNPLANTED if g.file == file]
    covered = sum(bool(mutant.covered_by) for mutant in MUTANTS.values())
    lines.append(
        f"{len(MUTANTS)} mutants, {covered} of them covered by a second guard; "
        f"{len(UNPLANTED)} guards without a mutant"
    )
    return "\n".join(lines)


def _description(mutant: Mutant) -> str:
    if mutant.covered_by:
        return f"covered by: {mutant.covered_by}; see {mutant.pair}"
    text = f"killed by {'/'.join(mutant.killers)} in {mutant.scenario}"
    return f"{text}; only in simulation: {mutant.unlive}" if mutant.unlive else text


def find(name: str) -> Mutant:
    """Return the mutant with this name.

    Raises:
        MutantError: the name is unknown; the message lists the known names.
    """
    if name not in MUTANTS:
        raise MutantError(f"no mutant {name!r}; known mutants: {', '.join(MUTANTS)}")
    return MUTANTS[name]
