"""The effect is the return value: one row in the ledger.

``chaos_thread`` is a plain function, which its worker runs in a thread. The simulation refuses
threads, so only scenarios of the live and the compose arena ask for it, by name:
``handlers: {chaos_thread: [{number: -1, seconds: 0.2, steps: []}]}`` in their workload.
"""

from __future__ import annotations

from typing import Any

from chaos.tasks.attempt import (
    declared,
    fail,
    first_half,
    handlers_of,
    returned,
    second_half,
    testimony,
)
from chaos.tasks.steps import step_of
from holdfast.handlers import Context


async def _ledger(ctx: Context, payload: dict[str, Any]) -> Any:
    """Return the effect."""
    result = await first_half(ctx, payload)
    await second_half(ctx, payload, result)
    return returned(ctx, payload, result)


usual, steady, brief = handlers_of("ledger", _ledger)


@declared("chaos_thread")
def thread(ctx: Context, payload: dict[str, Any]) -> dict[str, Any]:
    """Return the effect; of the steps it knows those that fail at once, and ``hang``."""
    seen = testimony(ctx, payload)
    ctx.cancelled_within(payload["seconds"])
    step = step_of(payload, ctx.attempt)
    if step.get("do") in {"fail", "retry", "discard"}:
        fail(step, seen)
    if step.get("do") == "hang":
        ctx.cancelled_within(ctx.remaining_seconds())
    return {"number": payload["number"], "seen": seen}
