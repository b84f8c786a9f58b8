"""The parts of an attempt before and after its effect, the same for all handlers.

Payload: ``seconds`` of an attempt, ``failures`` (number of first attempts that fail),
``retry_seconds`` (requested delay after those), ``poison`` (kill the process). The effect is in the
middle of the attempt, so that a fault may hit before or after it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from holdfast.handlers import Context, Retry
from holdfast.model.lifecycle import Backoff

# Short and capped: the bound T (chaos/checker/bounds.py) waits for the longest of them.
BACKOFF = Backoff(base_seconds=0.2, max_seconds=2.0)


async def first_half(ctx: Context, payload: dict[str, Any]) -> None:
    """Run up to the effect; raises Retry if this attempt is planned to fail."""
    await asyncio.sleep(payload["seconds"] / 2)
    if payload.get("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    if ctx.attempt <= payload["failures"]:
        raise Retry(after=payload["retry_seconds"], reason=f"planned failure {ctx.attempt}")


async def second_half(payload: dict[str, Any]) -> None:
    """Run from the effect to the end."""
    await asyncio.sleep(payload["seconds"] / 2)
