"""Context, the exceptions of handlers, and results."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from waiting import within

from holdfast.errors import Unstorable
from holdfast.handlers import Context, Discard, Registry, Retry
from holdfast.handlers.builtin.basic import SleepPayload
from holdfast.handlers.builtin.payload import parse
from holdfast.handlers.cancellation import Cancellation, StopReason
from holdfast.handlers.result import encode_result
from holdfast.handlers.time_limit import TimeLimit
from holdfast.model.claim import Grant
from holdfast.settings import Settings

TASK_ID = UUID("01890000-0000-7000-8000-000000000001")
CLAIMED_AT = datetime(2026, 1, 9, 10, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def grant(**changes: Any) -> Grant:
    values: dict[str, Any] = {
        "task_id": TASK_ID,
        "epoch": 3,
        "attempt": 2,
        "name": "echo",
        "queue": "default",
        "payload": {},
        "max_attempts": 5,
        "failures": 1,
        "timeout_seconds": 30.0,
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "claimed_at": CLAIMED_AT,
        "queued_at": CLAIMED_AT,
        "waited_seconds": 0.01,
        "age_seconds": 0.01,
    }
    return Grant(**{**values, **changes})


def make(clock: Clock | None = None, cancellation: Cancellation | None = None) -> Context:
    clock = clock or Clock()
    limit = TimeLimit(30.0, clock=clock, claimed=clock())
    limit.begin()
    return Context(grant(), limit=limit, cancellation=cancellation)


def test_context_exposes_the_grant() -> None:
    context = make()
    assert (context.task_id, context.effect_key) == (TASK_ID, str(TASK_ID))
    assert (context.name, context.queue) == ("echo", "default")
    assert (context.attempt, context.epoch, context.max_attempts) == (2, 3, 5)
    assert context.traceparent == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert context.deadline == CLAIMED_AT + timedelta(seconds=30)
    assert not context._commit.committed
    assert not context._commit.unknown


def test_remaining_seconds_count_down_from_the_claim_to_zero() -> None:
    clock = Clock()
    context = make(clock)
    assert context.remaining_seconds() == 30
    clock.now += 12.5
    assert context.remaining_seconds() == 17.5
    clock.now += 1000
    assert context.remaining_seconds() == 0


async def test_cancellation_reaches_coroutines() -> None:
    cancellation = Cancellation()
    context = make(cancellation=cancellation)
    waiting = asyncio.ensure_future(context.wait_cancelled())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert not context.cancelled
    assert context.cancel_reason is None
    cancellation.request(StopReason.CANCEL_REQUESTED)
    cancellation.request(StopReason.TIMED_OUT)
    await within(waiting, lambda: "the wait for the cancellation")
    assert context.cancelled
    assert context.cancel_reason is StopReason.CANCEL_REQUESTED


async def test_cancellation_wakes_a_thread() -> None:
    cancellation = Cancellation()
    context = make(cancellation=cancellation)
    thread = asyncio.ensure_future(asyncio.to_thread(context.cancelled_within, 60))
    polled = await asyncio.to_thread(context.cancelled_within, 0.001)
    cancellation.request(StopReason.SHUTTING_DOWN)
    assert polled is False
    assert await within(thread, lambda: "the wait of the thread") is True


async def test_blocking_wait_on_the_event_loop_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"await ctx\.wait_cancelled\(\)"):
        make().cancelled_within(0.001)


async def test_transaction_is_refused_in_plain_functions() -> None:
    with pytest.raises(RuntimeError, match=r"plain function.*async def"):
        make().transaction()


def test_retry_accepts_seconds_timedelta_or_none() -> None:
    assert Retry(after=1.5).after_seconds == 1.5
    assert Retry(after=timedelta(minutes=2), reason="rate limit").after_seconds == 120
    assert str(Retry(reason="rate limit")) == "rate limit"
    assert Retry().after_seconds is None
    assert "asked for a retry" in str(Retry())
    assert str(Discard("no such user")) == "no such user"


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), timedelta(seconds=-1)])
def test_retry_rejects_invalid_delays(after: Any) -> None:
    with pytest.raises(ValueError, match="takes seconds >= 0"):
        Retry(after=after)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1.5, 2**53, "text \\u0000 \u20ac", [1, [2]], {"a": {"b": None}}],
)
def test_json_results_round_trip(value: Any) -> None:
    assert json.loads(encode_result(value, 1000)) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "nan"),
        ({"a": [float("inf")]}, "/a/0.*inf"),
        ("\0", "NUL"),
        ({"\0": 1}, "NUL"),
        ("\ud800", "surrogate"),
        (10**30, "beyond 64 bits"),
        (object(), "object is not a JSON type"),
        ({"when": datetime(2026, 1, 1, tzinfo=UTC)}, "/when.*datetime is not a JSON type"),
        (b"bytes", "bytes is not a JSON type"),
        ({1, 2}, "set is not a JSON type"),
        ("x" * 1000, "more than 1000 bytes"),
        ("\u20ac" * 400, "more than 1000 bytes"),
    ],
)
def test_unstorable_results_are_rejected_with_a_reason(value: Any, message: str) -> None:
    with pytest.raises(Unstorable, match=message):
        encode_result(value, 1000)


class Ready:
    """An awaitable that is no coroutine, and cannot be closed."""

    def __await__(self) -> Any:
        return iter(())


def test_missing_await_and_cyclic_results_are_explained() -> None:
    async def work() -> None: ...

    with pytest.raises(Unstorable, match="returned an awaitable"):
        encode_result(work(), 1000)
    with pytest.raises(Unstorable, match="returned an awaitable"):
        encode_result(Ready(), 1000)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(Unstorable, match="JSON"):
        encode_result(endless, 1000)


async def run_builtin(name: str, payload: Any) -> Any:
    registry = Registry()
    registry.load_builtin(Settings())
    handler = registry.get(name)
    assert handler is not None
    return await handler.function(make(), payload)


async def test_echo_returns_its_payload() -> None:
    assert await run_builtin("echo", {"a": [1, None]}) == {"a": [1, None]}


def test_sleep_lasts_a_second_by_default() -> None:
    assert parse(SleepPayload, "sleep", {}).seconds == 1.0


async def test_sleep_sleeps_and_returns_the_seconds() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    assert await run_builtin("sleep", {"seconds": 0.05}) == {"seconds": 0.05}
    assert loop.time() - before >= 0.05


@pytest.mark.parametrize(
    "payload", [{"seconds": -1}, {"seconds": "soon"}, {"seconds": float("nan")}, {"second": 1}]
)
async def test_sleep_discards_invalid_payloads(payload: Any) -> None:
    with pytest.raises(Discard, match="invalid payload for sleep: second"):
        await run_builtin("sleep", payload)
