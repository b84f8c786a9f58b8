"""The effect is an external call to ``chaos.observers.sink``, which drops repeated keys."""

from __future__ import annotations

import os
import ssl
from typing import Any

import httpx

from chaos.tasks.attempt import first_half, handlers_of, returned, second_half
from chaos.tasks.declarations import SINK_RETRY_SECONDS
from holdfast.handlers import Context, Retry

SINK_URL = "CHAOS_SINK_URL"
# The sink speaks plain HTTP; loading certificates for each call would cost 10 ms of CPU.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def _external(ctx: Context, payload: dict[str, Any]) -> Any:
    """Call the sink with the effect key; the attempt may still fail afterwards."""
    result = await first_half(ctx, payload)
    # One client per call, so that a broken connection does not affect the next attempt.
    async with httpx.AsyncClient(
        trust_env=False, verify=_NO_CERTIFICATES, timeout=ctx.remaining_seconds()
    ) as client:
        try:
            answer = await client.post(
                f"{os.environ[SINK_URL]}/effects",
                headers={"Idempotency-Key": ctx.effect_key, "Holdfast-Epoch": str(ctx.epoch)},
                json={"task_id": str(ctx.task_id), "seen": result["seen"]},
            )
        except httpx.TransportError as error:
            raise Retry(
                after=SINK_RETRY_SECONDS, reason=f"the sink did not respond: {error!r}"
            ) from error
    if answer.status_code not in {200, 201}:
        raise Retry(
            after=SINK_RETRY_SECONDS, reason=f"the sink responded with {answer.status_code}"
        )
    await second_half(ctx, payload, result)
    return returned(ctx, payload, result | {"applied": answer.status_code == 201})


usual, steady, brief = handlers_of("external", _external)
