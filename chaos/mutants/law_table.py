"""The table of invariants with the mutants that only they kill, as chaos/README.md shows it."""

from __future__ import annotations

from chaos.checker.invariants.declaration import Invariant
from chaos.checker.invariants.registry import INVARIANTS
from chaos.mutants import MUTANTS


def law_table() -> str:
    """Return the table in Markdown, one row per invariant."""
    head = "| invariant | what it requires | what it compares | mutants that only it kills |"
    return "\n".join([head, "|---|---|---|---|", *map(_row, INVARIANTS.values())])


def _row(law: Invariant) -> str:
    planted = (m for m in MUTANTS.values() if not m.covered_by)
    alone = [f"`{m.name}`" for m in planted if m.killers == (law.name,)]
    return f"| {law.name} | {law.sentence} | {law.compares} | {', '.join(alone)} |"
