"""What the handlers of all kinds do before and after their effect.

Payload: ``seconds`` an attempt takes, ``failures`` how many first attempts fail, ``retry_seconds``
what they ask for, ``poison`` if it kills its process. The effect comes in the middle of the
attempt, so that a fault may strike before and after it.
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
    """Up to the effect; raises Retry where the attempt fails by plan."""
    await asyncio.sleep(payload["seconds"] / 2)
    if payload.get("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    if ctx.attempt <= payload["failures"]:
        raise Retry(after=payload["retry_seconds"], reason=f"planned failure {ctx.attempt}")


async def second_half(payload: dict[str, Any]) -> None:
    """From the effect to the end."""
    await asyncio.sleep(payload["seconds"] / 2)
