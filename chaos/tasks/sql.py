"""The effect is a row that the handler inserts in ``ctx.transaction()``."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from chaos.tasks.attempt import BACKOFF, first_half, second_half
from holdfast.handlers import Context, task

# No unique constraint: a second effect of a task must be visible, not refused.
CHAOS_EFFECTS = """
    CREATE TABLE chaos_effects (
        task_id uuid NOT NULL,
        epoch integer NOT NULL,
        attempt integer NOT NULL,
        at timestamptz NOT NULL
    )
"""
_INSERT = text(
    "INSERT INTO chaos_effects (task_id, epoch, attempt, at)"
    " VALUES (:task_id, :epoch, :attempt, clock_timestamp())"
)


@task("chaos_sql", backoff=BACKOFF)
async def sql(ctx: Context, payload: dict[str, Any]) -> None:
    """Insert a row, committed together with the ledger row or not at all."""
    await first_half(ctx, payload)
    async with ctx.transaction() as tx:
        row = {"task_id": ctx.task_id, "epoch": ctx.epoch, "attempt": ctx.attempt}
        await tx.execute(_INSERT, row)
        await second_half(payload)
        tx.result = {"number": payload["number"]}
