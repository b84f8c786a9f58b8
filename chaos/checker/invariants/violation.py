"""The violation of an invariant."""

from __future__ import annotations

from dataclasses import dataclass

from chaos.history.history import Operation
from chaos.history.records import Record


@dataclass(frozen=True, slots=True)
class Violation:
    """One violation of an invariant, with the records that show it.

    ``task_id`` is None where no single task is at fault.
    """

    invariant: str
    task_id: str | None
    message: str
    evidence: tuple[Record, ...] = ()


def halves(*operations: Operation) -> tuple[Record, ...]:
    """Return the records of operations, as evidence."""
    found = (half for op in operations for half in (op.invoke, op.completion))
    return tuple(half for half in found if half is not None)
