"""The effect is the return value: one row in the ledger."""

from __future__ import annotations

from typing import Any

from chaos.tasks.attempt import BACKOFF, first_half, second_half
from holdfast.handlers import Context, task


@task("chaos_ledger", backoff=BACKOFF)
async def ledger(ctx: Context, payload: dict[str, Any]) -> dict[str, Any]:
    """Return the effect."""
    await first_half(ctx, payload)
    await second_half(payload)
    return {"number": payload["number"], "attempt": ctx.attempt}
