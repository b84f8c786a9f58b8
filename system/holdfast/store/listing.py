"""The listing of tasks, newest id first."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, text

from holdfast.model.task import TaskFilter
from holdfast.store.transitions import TASK_COLUMNS


def listing(
    wanted: TaskFilter, limit: int, before: UUID | None
) -> tuple[TextClause, dict[str, Any]]:
    """Build the statement for the filters that are set, and its parameters.

    ``before`` is the cursor: ids are UUIDv7, so every page costs the same.
    """
    conditions = ["TRUE"]
    parameters: dict[str, Any] = {"n": limit}
    candidates: list[tuple[str, str, Any]] = [
        ("state = ANY(CAST(:states AS text[]))", "states", [str(s) for s in wanted.states]),
        ("name = CAST(:name AS text)", "name", wanted.name),
        ("queue = CAST(:queue AS text)", "queue", wanted.queue),
        (
            "created_at >= CAST(:created_after AS timestamptz)",
            "created_after",
            wanted.created_after,
        ),
        (
            "created_at < CAST(:created_before AS timestamptz)",
            "created_before",
            wanted.created_before,
        ),
        ("run_at >= CAST(:run_after AS timestamptz)", "run_after", wanted.run_after),
        ("run_at < CAST(:run_before AS timestamptz)", "run_before", wanted.run_before),
        ("id < CAST(:before AS uuid)", "before", before),
    ]
    for condition, name, value in candidates:
        if value:
            conditions.append(condition)
            parameters[name] = value
    where = " AND ".join(conditions)  # only constants, never values
    order = "ORDER BY id DESC LIMIT CAST(:n AS int)"
    return text(f"SELECT {TASK_COLUMNS} FROM tasks WHERE {where} {order}"), parameters  # noqa: S608
