"""The listing of tasks, newest id first."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, text

from holdfast.model.task import TaskFilter
from holdfast.store.transitions import TASK_COLUMNS, WITHOUT_PAYLOAD

PAGE_BYTES_MAX = 1 << 20

_TABLES = "holdfast.tasks JOIN holdfast.requests USING (id)"
# One row after the other, by the primary key: a plain LIMIT would read and decompress the payloads
# of all rows before anything could add up their sizes. A payload is read after LIMIT, since a sort
# would read those of all rows.
_PAGE = """
WITH RECURSIVE page AS (
  SELECT {columns}, 1 AS place, true AS within, CAST(0 AS bigint) AS bytes
  FROM (SELECT * FROM {tables} WHERE {first} ORDER BY id DESC LIMIT 1) newest
  UNION ALL
  SELECT following.*, page.place + 1,
    page.place < CAST(:n AS int) AND page.bytes + length(page.payload) < CAST(:bytes AS bigint),
    page.bytes + length(page.payload)
  FROM page CROSS JOIN LATERAL (
    SELECT {columns}
    FROM (SELECT * FROM {tables} WHERE {where} AND id < page.id ORDER BY id DESC LIMIT 1) next
  ) following
  WHERE page.within)
SELECT {names}, within, CASE WHEN within THEN payload END AS payload FROM page ORDER BY place"""


def listing(
    wanted: TaskFilter, limit: int, before: UUID | None, bytes_max: int
) -> tuple[TextClause, dict[str, Any]]:
    """Build the statement for the filters that are set, and its parameters.

    ``before`` is the cursor: ids are UUIDv7, so every page costs the same. The page ends after
    ``limit`` tasks, or as soon as their payloads have ``bytes_max`` bytes. The row that follows it,
    if any, is returned without its payload and not ``within``.
    """
    conditions = ["TRUE"]
    parameters: dict[str, Any] = {"n": limit, "bytes": bytes_max}
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
    ]
    for condition, name, value in candidates:
        if value:
            conditions.append(condition)
            parameters[name] = value
    where = " AND ".join(conditions)  # only constants, never values
    first = where
    if before:
        first += " AND id < CAST(:before AS uuid)"
        parameters["before"] = before
    return text(
        _PAGE.format(
            names=WITHOUT_PAYLOAD, columns=TASK_COLUMNS, tables=_TABLES, first=first, where=where
        )
    ), parameters
