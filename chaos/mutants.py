"""Mutants of the system: one guard switched off in a copy of its source. Each must be caught.

A run that never goes red proves nothing. ``plant`` copies the packages, applies exact replacements
(it fails loudly where the text is not there exactly once) and returns the tree; the roles then run
from it by PYTHONPATH. The harness itself always runs from the real sources.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

PACKAGES = ("system", "observability", "chaos")


class MutantError(ValueError):
    """A mutant that does not fit the sources any more; the message names file and text."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace ``old``, which stands exactly once in ``file``, by ``new``."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """``what`` is switched off; ``scenario`` must end false with it, by one of ``killers``."""

    name: str
    what: str
    scenario: str
    killers: tuple[str, ...]
    edits: tuple[Edit, ...]


_FINISH_WITHOUT_EPOCH = Mutant(
    name="finish_without_epoch",
    what="a finish succeeds whenever the task is RUNNING, whoever runs it by now",
    scenario="late_finish",
    killers=("S1", "S8", "S9"),
    edits=(
        Edit(
            "system/statements.py",
            "SELECT h.id, h.epoch, h.seq, i.result FROM h JOIN i ON i.id = h.id\n"
            "  WHERE h.state = 'RUNNING' AND h.epoch = i.epoch),",
            "SELECT h.id, h.epoch, h.seq, i.result FROM h JOIN i ON i.id = h.id\n"
            "  WHERE h.state = 'RUNNING'),",
        ),
    ),
)

_ANSWER_BEFORE_STORE = Mutant(
    name="answer_before_store",
    what="a submit is answered 201 while its statement is still on the way",
    scenario="calm",
    killers=("S5", "S10", "S12"),
    edits=(
        Edit(
            "system/api/submits.py",
            "    outcome = (await services.coalescer.submit([task]))[0]\n",
            """\
    import asyncio
    from datetime import UTC, datetime

    from system.lifecycle import State
    from system.records import TaskRow

    storing = asyncio.ensure_future(services.coalescer.submit([task]))
    storing.add_done_callback(lambda done: done.cancelled() or done.exception())
    now = datetime.now(UTC)
    outcome = Submitted(
        "created",
        TaskRow(
            id=task.id, tenant=task.tenant, queue=task.queue, priority=task.priority,
            name=task.name, payload={}, idempotency_key=task.idempotency_key,
            traceparent=task.traceparent, run_at=task.run_at or now, due_at=task.run_at or now,
            state=State.SCHEDULED, epoch=0, seq=0, attempt=0, losses=0, handed_back=0,
            max_attempts=task.max_attempts, max_losses=task.max_losses,
            timeout_seconds=task.timeout_seconds, cancel_requested=False, worker_id=None,
            claimed_at=None, created_at=now, finished_at=None,
        ),
    )
""",
        ),
    ),
)

MUTANTS = MappingProxyType(
    {mutant.name: mutant for mutant in (_FINISH_WITHOUT_EPOCH, _ANSWER_BEFORE_STORE)}
)


def find(name: str) -> Mutant:
    """The mutant of that name; raises MutantError with the names there are."""
    if name not in MUTANTS:
        raise MutantError(f"no mutant {name!r}; there are: {', '.join(MUTANTS)}")
    return MUTANTS[name]


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
                f"{found} times, not once. Bring it up to date in chaos/mutants.py:\n{edit.old}"
            )
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")
    return tree
