"""The parts of an attempt before and after its effect, the same for all handlers.

Payload: ``number`` of the task, ``seconds`` of an attempt, ``steps``. The effect is in the middle
of the attempt, so that a fault may hit before or after it. Between the first half and the effect
(``fail_late``: at the end), attempt k does ``steps[k - 1]``, an object; attempts beyond the list
have no step and succeed:

  {"do": "fail"}                   raise an exception: ``failed``, then the declared back-off
  {"do": "fail_late"}              the same, but after the effect: a call to the sink is repeated by
                                   the next attempt, a business row is rolled back
  {"do": "retry", "after": s}      raise ``Retry(after=s)``: ``failed``, then that delay
  {"do": "discard"}                raise ``Discard``: the task is FAILED
  {"do": "hang"}                   wait until cancelled by the timeout: ``timed_out``, back-off
  {"do": "swallow"}                the same, but continue when cancelled. What it returns after its
                                   timeout does not count: ``timed_out``. Only after a cancel or in
                                   a stop it may still succeed
  {"do": "kill"}                   kill the process (SIGKILL): ``lost``
  {"do": "return", "value": v}     succeed; the result holds v, any JSON value; with
                                   ``"whole": true`` it is v, and holds nothing else
  {"do": "unstorable", "value": n} return, after the effect, what is no JSON that Postgres can
                                   store or is too large: ``failed``, then the declared back-off
  {"do": "leave"}                  succeed, and leave a running asyncio task behind, which the
                                   worker neither awaits nor cancels before it stops
  {"do": "block", "seconds": s}    block the event loop, then succeed (live arena only)

A cancel, a shutdown and a lost lease also cancel what waits, in any step and without one.

Each attempt testifies what it saw: ``seen`` is in its result (unless its step is the whole of it),
in its business row, in its call to the sink, and as JSON at the end of the message of each
exception it plans.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from chaos.tasks.declarations import DECLARATIONS, names_of
from chaos.tasks.steps import step_of
from holdfast.handlers import Context, Discard, Retry, task
from holdfast.model.lifecycle import Backoff

# How long a task that an attempt leaves behind goes on.
_LEFT_SECONDS = 0.5
# By the names of ``chaos.tasks.steps.UNSTORABLE``; the default limit of a result is 1 MiB.
_UNSTORABLE: Mapping[str, Any] = MappingProxyType(
    {
        "nan": float("nan"),
        "surrogate": "\ud800",
        "nul": "\0",
        "large": "x" * (1 << 20),
        "object": object(),
    }
)

Payload = dict[str, Any]
Function = Callable[[Context, Payload], Awaitable[Any]]
_F = TypeVar("_F", bound=Callable[..., Any])


class PlannedFailure(Exception):
    """The payload says that this attempt fails."""


def handlers_of(effect: str, body: Function) -> list[Function]:
    """Return one handler for each declared name of this kind of effect; all run ``body``."""
    return [_named(name, body) for name in names_of(effect)]


def declared(name: str) -> Callable[[_F], _F]:
    """Return the product's ``@task`` with what is declared for this name."""
    limits = DECLARATIONS[name]
    return task(
        name,
        max_attempts=limits.max_attempts,
        timeout_seconds=limits.timeout_seconds,
        backoff=backoff_of(name),
    )


def backoff_of(name: str) -> Backoff:
    """Return the back-off that the handler of this name declares."""
    limits = DECLARATIONS[name]
    return Backoff(limits.base_seconds, limits.factor, limits.max_seconds, jitter=limits.jitter)


def _named(name: str, body: Function) -> Function:
    @declared(name)
    async def handler(ctx: Context, payload: Payload) -> Any:
        return await body(ctx, payload)

    return handler


async def first_half(ctx: Context, payload: Payload) -> Payload:
    """Run up to the effect and return the result of the attempt: number, seen, perhaps value.

    Raises:
        PlannedFailure, Retry, Discard: the step of this attempt says so.
    """
    result = {"number": payload["number"], "seen": testimony(ctx, payload)}
    await asyncio.sleep(payload["seconds"] / 2)
    step = step_of(payload, ctx.attempt)
    match step.get("do"):
        case "fail" | "retry" | "discard":
            fail(step, result["seen"])
        case "hang":
            await asyncio.Event().wait()
        case "swallow":
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "return":
            result["value"] = step["value"]
        case "leave":
            # Its timer in the event loop refers to it.
            asyncio.create_task(asyncio.sleep(_LEFT_SECONDS), name="left behind")  # noqa: RUF006
        case "block":
            time.sleep(step["seconds"])  # noqa: ASYNC251 - it is what a user's handler may do
        case _:
            pass  # only the effect
    return result


def returned(ctx: Context, payload: Payload, result: Payload) -> Any:
    """Return what a handler returns: the result of ``first_half``, or the value of its step."""
    step = step_of(payload, ctx.attempt)
    if step.get("do") == "unstorable":
        return result | {"value": _UNSTORABLE[step["value"]]}
    return step["value"] if step.get("whole") else result


async def second_half(ctx: Context, payload: Payload, result: Payload) -> None:
    """Run from the effect to the end. ``result``: of the first half.

    Raises:
        PlannedFailure: the step of this attempt is fail_late.
    """
    await asyncio.sleep(payload["seconds"] / 2)
    step = step_of(payload, ctx.attempt)
    if step.get("do") == "fail_late":
        fail(step, result["seen"])


def testimony(ctx: Context, payload: Payload) -> Payload:
    """Return what this attempt saw: digest of the payload, its number, its remaining seconds."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {
        "payload": hashlib.sha256(text.encode()).hexdigest()[:16],
        "attempt": ctx.attempt,
        "seconds": round(ctx.remaining_seconds(), 3),
    }


def fail(step: Mapping[str, Any], seen: Payload) -> NoReturn:
    """Raise what the step says, with what the attempt saw.

    Raises:
        PlannedFailure, Retry, Discard: the step is fail or fail_late, retry, discard.
    """
    message = f"planned: {step['do']} seen {json.dumps(seen)}"
    if step["do"] == "retry":
        raise Retry(after=step["after"], reason=message)
    if step["do"] == "discard":
        raise Discard(message)
    raise PlannedFailure(message)
