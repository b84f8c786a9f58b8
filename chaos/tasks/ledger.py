"""The effect is the return value: one row in the ledger."""

from __future__ import annotations

from typing import Any

from chaos.tasks.attempt import first_half, handlers_of, second_half
from holdfast.handlers import Context


async def _ledger(ctx: Context, payload: dict[str, Any]) -> dict[str, Any]:
    """Return the effect."""
    result = await first_half(ctx, payload)
    await second_half(payload)
    return result


usual, steady, brief = handlers_of("ledger", _ledger)
