"""The handlers of the workload, run by real workers: ``python -m system worker --app chaos.tasks``.

One per kind of effect. Payload: ``seconds`` an attempt takes, ``failures`` how many first attempts
fail, ``retry_seconds`` what they ask for. The effect comes in the middle of the attempt, so that a
fault may strike before and after it.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Any

import httpx
from sqlalchemy import text

from system.handlers import Context, Retry, task

SINK_URL = "CHAOS_SINK_URL"
# The sink speaks plain HTTP; loading certificates for each call would cost 10 ms of CPU.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

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


@task("chaos_ledger")
async def ledger(ctx: Context, payload: dict[str, Any]) -> dict[str, Any]:
    """The return value is the effect."""
    await _first_half(ctx, payload)
    await _second_half(payload)
    return {"number": payload["number"], "attempt": ctx.attempt}


@task("chaos_sql")
async def sql(ctx: Context, payload: dict[str, Any]) -> None:
    """A row of our own, committed together with the ledger or not at all."""
    await _first_half(ctx, payload)
    async with ctx.transaction() as tx:
        row = {"task_id": ctx.task_id, "epoch": ctx.epoch, "attempt": ctx.attempt}
        await tx.execute(_INSERT, row)
        await _second_half(payload)
        tx.result = {"number": payload["number"]}


@task("chaos_external")
async def external(ctx: Context, payload: dict[str, Any]) -> dict[str, Any]:
    """A call to the sink with the effect key; the attempt may still end otherwise after it."""
    await _first_half(ctx, payload)
    # A client of its own for each call: a broken connection must not reach the next attempt.
    async with httpx.AsyncClient(
        trust_env=False, verify=_NO_CERTIFICATES, timeout=ctx.remaining_seconds()
    ) as client:
        try:
            answer = await client.post(
                f"{os.environ[SINK_URL]}/effects",
                headers={"Idempotency-Key": ctx.effect_key, "Holdfast-Epoch": str(ctx.epoch)},
                json={"task_id": str(ctx.task_id)},
            )
        except httpx.TransportError as error:
            raise Retry(after=0.2, reason=f"the sink did not answer: {error!r}") from error
    if answer.status_code not in {200, 201}:
        raise Retry(after=0.2, reason=f"the sink answered {answer.status_code}")
    await _second_half(payload)
    return {"number": payload["number"], "applied": answer.status_code == 201}


async def _first_half(ctx: Context, payload: dict[str, Any]) -> None:
    await asyncio.sleep(payload["seconds"] / 2)
    if ctx.attempt <= payload["failures"]:
        raise Retry(after=payload["retry_seconds"], reason=f"planned failure {ctx.attempt}")


async def _second_half(payload: dict[str, Any]) -> None:
    await asyncio.sleep(payload["seconds"] / 2)
