"""echo and sleep: minimal handlers for trials and measurements."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import Field

from holdfast.handlers.builtin.payload import Payload, parse
from holdfast.handlers.context import Context
from holdfast.handlers.handler import task


@task("echo")
async def echo(ctx: Context, payload: dict[str, Any]) -> dict[str, Any]:
    """Return the payload."""
    return payload


class SleepPayload(Payload):
    """``seconds`` to sleep, bounded by the timeout of the attempt."""

    seconds: float = Field(1.0, ge=0, allow_inf_nan=False)


@task("sleep")
async def sleep(ctx: Context, payload: dict[str, Any]) -> dict[str, float]:
    """Sleep ``seconds`` (default 1) and return them."""
    seconds = parse(SleepPayload, "sleep", payload).seconds
    await asyncio.sleep(seconds)
    return {"seconds": seconds}
