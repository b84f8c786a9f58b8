"""The effect is a row that the handler inserts in ``ctx.transaction()``."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import text

from chaos.tasks.attempt import first_half, handlers_of, returned, second_half
from holdfast.handlers import Context

# No unique constraint: a second effect of a task must be visible, not refused.
CHAOS_EFFECTS = """
    CREATE TABLE chaos_effects (
        task_id uuid NOT NULL,
        epoch integer NOT NULL,
        attempt integer NOT NULL,
        at timestamptz NOT NULL,
        seen jsonb NOT NULL
    )
"""
_INSERT = text(
    "INSERT INTO chaos_effects (task_id, epoch, attempt, at, seen)"
    " VALUES (:task_id, :epoch, :attempt, clock_timestamp(), CAST(:seen AS jsonb))"
)


async def _sql(ctx: Context, payload: dict[str, Any]) -> None:
    """Insert a row, committed together with the ledger row or not at all.

    The result also has ``left``: the remaining seconds after the database has set the row's ``at``.
    """
    result = await first_half(ctx, payload)
    async with ctx.transaction() as tx:
        row = {"task_id": ctx.task_id, "epoch": ctx.epoch, "attempt": ctx.attempt}
        await tx.execute(_INSERT, row | {"seen": json.dumps(result["seen"])})
        result["left"] = round(ctx.remaining_seconds(), 3)
        await second_half(ctx, payload, result)
        tx.result = returned(ctx, payload, result)


usual, steady, brief = handlers_of("sql", _sql)
