"""The handler of `make trace`: steps long enough to be visible, and to be killed meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import text

from chaos.tasks.attempt import backoff_of
from holdfast.handlers import Context, task

FIRST_STEP = "read the order"
FIRST_STEP_SECONDS = 0.5
SECOND_STEP_SECONDS = 1.0
# Duration of the first attempt, which is killed earlier under any load of the machine.
FIRST_ATTEMPT_SECONDS = 120.0


@task("shown", backoff=backoff_of("chaos_ledger"))
async def shown(ctx: Context, payload: dict[str, Any]) -> None:
    """Run two steps, then an effect that commits together with the end of the task."""
    with ctx.span(FIRST_STEP):
        await asyncio.sleep(FIRST_STEP_SECONDS)
    with ctx.span("charge the card"):
        await asyncio.sleep(SECOND_STEP_SECONDS if ctx.attempt > 1 else FIRST_ATTEMPT_SECONDS)
    async with ctx.transaction() as tx:
        await tx.execute(text("SELECT clock_timestamp()"))
        tx.result = {"attempt": ctx.attempt}
