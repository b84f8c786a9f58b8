"""What an invariant returns when it does not hold."""

from __future__ import annotations

from dataclasses import dataclass

from chaos.records import Record


@dataclass(frozen=True, slots=True)
class Violation:
    """One law broken once: which, by which task (None: by no single one), how, and the records
    that show it.
    """

    invariant: str
    task_id: str | None
    message: str
    evidence: tuple[Record, ...] = ()
