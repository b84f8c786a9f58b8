"""Outcomes of attempts by the behaviour of their handlers, on real Postgres and Valkey."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from bench import Bench
from waiting import until
from wire import wire_to

from holdfast.handlers import Backoff, Context, Discard, Retry, TaskLost
from holdfast.model.dispatch import Hint
from holdfast.model.lifecycle import Reason, State
from holdfast.telemetry.event_names import EventName

Payload = dict[str, Any]
BEGIN = [Reason.SUBMITTED, Reason.DISPATCHED, Reason.CLAIMED]


async def test_return_value_of_a_handler_is_its_effect(bench: Bench) -> None:
    seen: dict[str, str] = {}

    @bench.registry.task("in_loop")
    async def in_loop(ctx: Context, payload: Payload) -> Any:
        seen["in_loop"] = threading.current_thread().name
        return {"got": payload, "attempt": ctx.attempt, "epoch": ctx.epoch}

    @bench.registry.task("in_thread")
    def in_thread(ctx: Context, payload: Payload) -> Any:
        seen["in_thread"] = threading.current_thread().name
        return {"got": payload, "attempt": ctx.attempt, "epoch": ctx.epoch}

    ids = await bench.offer("in_loop", "in_thread", payload={"n": [1, "ä", None]})
    async with bench.worker() as worker:
        await bench.until_state(ids, State.SUCCEEDED)
        assert worker.stalled() == {}
    for task_id in ids:
        story = await bench.story(task_id)
        assert story.effect is not None
        assert json.loads(story.effect.result) == {
            "got": {"n": [1, "ä", None]},
            "attempt": 1,
            "epoch": 1,
        }
        assert [event.reason for event in story.events] == [*BEGIN, Reason.SUCCEEDED]
        assert story.events[-1].actor == f"worker:{worker.id}"
    assert seen["in_loop"] == threading.current_thread().name
    assert seen["in_thread"].startswith("handler")


async def test_resent_claim_does_not_shorten_the_attempt(bench: Bench) -> None:
    """Regression, found by database_down_longer_than_lease: such attempts timed out early."""
    left: list[float] = []

    @bench.registry.task("slow")
    async def slow(ctx: Context, _: Payload) -> None:
        left.append(ctx.remaining_seconds())

    async with (
        wire_to(bench.settings.database_url) as wire,
        bench.worker(database_url=wire.url, lease_seconds=60.0),
    ):
        await bench.until_state(await bench.offer("slow"), State.SUCCEEDED)  # the lease is held
        wire.down()
        (task_id,) = await bench.offer("slow", timeout_seconds=1.0)
        # Resent every 0.2 s: for longer than the attempt may take.
        await until(lambda: bench.logged().count(EventName.CLAIM_RESENT) >= 6)
        wire.heal()
        await bench.until_state([task_id], State.SUCCEEDED)
    assert await bench.reasons(task_id) == [*BEGIN, Reason.SUCCEEDED]
    assert left[1] == pytest.approx(1.0, abs=0.01)


def raise_in_group() -> None:
    raise BaseExceptionGroup("several", [SystemExit(3), ValueError("x")])


def stop_iteration() -> Any:
    return next(iter(()))


def exit_process() -> None:
    raise SystemExit(4)


def interrupt() -> None:
    raise KeyboardInterrupt


def cancel_itself() -> None:
    raise asyncio.CancelledError("my own idea")


def unprintable() -> None:
    raise ValueError("\0 and \ud800" + "x" * 100_000)


def look_up() -> Any:
    return dict[str, str]()["x"]


ENDS: dict[str, Callable[[], Any]] = {
    "LookupError": look_up,
    "BaseExceptionGroup": raise_in_group,
    "StopIteration": stop_iteration,
    "SystemExit": exit_process,
    "KeyboardInterrupt": interrupt,
    "CancelledError": cancel_itself,
    "unprintable": unprintable,
    "NaN": lambda: float("nan"),
    "NUL": lambda: "\0",
    "set": lambda: {1, 2},
    "too large": lambda: "x" * (1 << 21),
}
SAYS = {
    "LookupError": ("KeyError", "'x'"),
    "BaseExceptionGroup": ("BaseExceptionGroup", "several"),
    "StopIteration": ("RuntimeError", "StopIteration"),
    "SystemExit": ("RuntimeError", "sys.exit(4)"),
    "KeyboardInterrupt": ("RuntimeError", "KeyboardInterrupt"),
    "CancelledError": ("RuntimeError", "CancelledError: my own idea"),
    "unprintable": ("ValueError", "\\0 and \\ud800"),
    "NaN": ("Unstorable", "the result"),
    "NUL": ("Unstorable", "the result"),
    "set": ("Unstorable", "the result"),
    "too large": ("Unstorable", "HOLDFAST_RESULT_BYTES_MAX"),
}


@pytest.mark.parametrize("plain", [False, True], ids=["coroutine", "thread"])
async def test_any_exception_of_a_handler_ends_only_its_attempt(bench: Bench, plain: bool) -> None:
    async def handle(ctx: Context, payload: Payload) -> Any:
        return ENDS[payload["end"]]()

    def handle_plain(ctx: Context, payload: Payload) -> Any:
        return ENDS[payload["end"]]()

    bench.registry.task("bad", timeout_seconds=60)(handle_plain if plain else handle)
    tasks = {
        name: (await bench.submit("bad", payload={"end": name}, max_attempts=1))[0] for name in ENDS
    }
    await bench.hint()
    async with bench.worker():
        await bench.until_state(list(tasks.values()), State.FAILED)
        (after,) = await bench.submit("bad", payload={"end": "CancelledError"}, max_attempts=1)
        await bench.hint()
        await bench.until_state(after, State.FAILED)
    for name, task_id in tasks.items():
        error = await bench.error(task_id)
        kind, message = SAYS[name]
        assert (error["type"], message in error["message"]) == (kind, True), (name, error)
        assert "Traceback" in error["traceback"] or name in {"NaN", "NUL", "set", "too large"}
        assert len(error["traceback"]) <= 17_000
    assert EventName.ATTEMPT_CRASHED not in bench.logged()


async def test_failures_are_retried_with_backoff_up_to_the_maximum(bench: Bench) -> None:
    backoff = Backoff(base_seconds=0.2, factor=2, jitter=0)

    @bench.registry.task("flaky", backoff=backoff)
    async def flaky(ctx: Context, payload: Payload) -> str:
        if ctx.attempt <= payload["failures"]:
            raise OSError(f"attempt {ctx.attempt}")
        return "at last"

    (twice,) = await bench.submit("flaky", payload={"failures": 2}, max_attempts=3)
    (always,) = await bench.submit("flaky", payload={"failures": 9}, max_attempts=3)
    async with bench.scheduler(), bench.worker():
        await bench.until_state(twice, State.SUCCEEDED)
        await bench.until_state(always, State.FAILED)
    cycle = [Reason.DISPATCHED, Reason.CLAIMED, Reason.FAILED]
    assert await bench.reasons(always) == [Reason.SUBMITTED, *cycle, *cycle, *cycle]
    assert await bench.error(always) == await bench.error(always) | {"message": "attempt 3"}
    events = (await bench.story(twice)).events
    failed = [e.at for e in events if e.reason is Reason.FAILED]
    claimed = [e.at for e in events if e.reason is Reason.CLAIMED]
    waits = [(c - f).total_seconds() for f, c in zip(failed, claimed[1:], strict=True)]
    assert waits[0] >= 0.2
    assert waits[1] >= 0.4


async def test_handler_chooses_the_retry_delay_or_discards(bench: Bench) -> None:
    @bench.registry.task("choosy")
    async def choosy(ctx: Context, payload: Payload) -> None:
        if "after" in payload:
            raise Retry(after=payload["after"], reason="not yet")
        raise Discard("hopeless")

    tasks = {
        after: (await bench.submit("choosy", payload={"after": after}))[0]
        for after in (3600, 1e300)
    }
    (hopeless,) = await bench.submit("choosy")
    await bench.hint()
    async with bench.worker():
        await bench.until_state([*tasks.values()], State.SCHEDULED)
        await bench.until_state(hopeless, State.FAILED)
    for after, task_id in tasks.items():
        task = (await bench.story(task_id)).task
        assert task.handed_back == 0
        wait = (task.due_at - task.created_at).total_seconds()
        assert wait == pytest.approx(min(after, 3650 * 86400), abs=10)
        assert await bench.error(task_id) == {"type": "Retry", "message": "not yet"}
    assert (await bench.reasons(hopeless))[-1] is Reason.DISCARDED
    assert await bench.error(hopeless) == {"type": "Discard", "message": "hopeless"}


async def test_task_without_a_handler_here_is_left_to_other_workers(bench: Bench) -> None:
    (task_id,) = await bench.offer("from_a_newer_release")
    async with bench.worker():
        await bench.until_state(task_id, State.SCHEDULED)
    task = (await bench.story(task_id)).task
    assert (task.attempt, task.handed_back) == (1, 1)
    assert (task.due_at - task.created_at).total_seconds() >= 4.5
    assert (await bench.error(task_id))["type"] == "UnknownName"


async def test_task_lost_raised_by_mistake_releases_the_task(bench: Bench) -> None:
    @bench.registry.task("mistaken")
    async def mistaken(ctx: Context, payload: Payload) -> None:
        if ctx.attempt == 1:
            raise TaskLost("raised by mistake")

    (task_id,) = await bench.submit("mistaken")
    async with bench.scheduler(), bench.worker():
        await bench.until_state(task_id, State.SUCCEEDED)
    assert Reason.RELEASED in await bench.reasons(task_id)


async def test_worker_runs_no_more_handlers_than_slots(bench: Bench) -> None:
    running, peak, released = 0, 0, asyncio.Event()

    @bench.registry.task("slow")
    async def slow(ctx: Context, payload: Payload) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await released.wait()
        running -= 1

    ids = await bench.offer(*["slow"] * 10)
    async with bench.worker(worker_concurrency=3):
        await until(lambda: running == 3)
        states = [await bench.state(task_id) for task_id in ids]
        assert (states.count(State.RUNNING), states.count(State.QUEUED)) == (3, 7)
        released.set()
        await bench.until_state(ids, State.SUCCEEDED)
    assert peak == 3


async def test_hints_that_grant_nothing_are_dropped(bench: Bench) -> None:
    @bench.registry.task("counted")
    async def counted(ctx: Context, payload: Payload) -> int:
        return ctx.attempt

    (task_id,) = await bench.submit("counted")
    (hint,) = (await bench.store.dispatch(10, "scheduler:test")).tasks
    wrong_epoch = Hint(hint.task_id, 2, "default", None)
    await bench.queue.publish([wrong_epoch, Hint(uuid4(), 0, "default", None), hint, hint, hint])
    await bench.queue._redis.xadd("holdfast:hints:default", {"rub": "bish"})
    await bench.queue._redis.xadd("holdfast:hints:default", {"id": str(task_id), "epoch": 2**40})
    async with bench.worker(worker_concurrency=2):
        await bench.until_state(task_id, State.SUCCEEDED)
        await until(lambda: _empty(bench))
    assert (await bench.reasons(task_id)) == [*BEGIN, Reason.SUCCEEDED]
    assert bench.count("holdfast_claims_refused_total") == 6


async def _empty(bench: Bench) -> bool:
    return bool(await bench.queue._redis.xlen("holdfast:hints:default") == 0)


async def test_claim_with_lost_reply_is_settled_by_its_token(bench: Bench) -> None:
    @bench.registry.task("counted")
    async def counted(ctx: Context, payload: Payload) -> int:
        return ctx.attempt

    (task_id,) = await bench.submit("counted")
    async with wire_to(bench.settings.database_url) as wire:
        wire.lose_reply_to(task_id.bytes)
        async with bench.worker(database_url=wire.url):
            await bench.hint()
            await bench.until_state(task_id, State.SUCCEEDED)
            assert wire.reply_lost.is_set()
    assert await bench.reasons(task_id) == [*BEGIN, Reason.SUCCEEDED]
    assert EventName.CLAIM_RESENT in bench.logged()


async def test_ack_with_lost_reply_causes_no_second_attempt(bench: Bench) -> None:
    @bench.registry.task("counted")
    async def counted(ctx: Context, payload: Payload) -> int:
        return ctx.attempt

    async with wire_to(bench.settings.redis_url) as wire:
        wire.lose_reply_to(b"XDEL")
        async with bench.worker(redis_url=wire.url):
            (task_id,) = await bench.offer("counted")
            await bench.until_state(task_id, State.SUCCEEDED)
            await wire.reply_lost.wait()
            await until(lambda: _empty(bench))
            (after,) = await bench.offer("counted")
            await bench.until_state(after, State.SUCCEEDED)
    assert await bench.reasons(task_id) == [*BEGIN, Reason.SUCCEEDED]


async def test_hints_with_lost_reply_are_read_again(bench: Bench) -> None:
    @bench.registry.task("counted")
    async def counted(ctx: Context, payload: Payload) -> int:
        return ctx.attempt

    async with (
        wire_to(bench.settings.redis_url) as wire,
        bench.worker(redis_url=wire.url) as worker,
    ):
        wire.lose_reply_to(b"XREADGROUP")
        while not wire.reply_lost.is_set():
            (task_id,) = await bench.offer("counted")
            await bench.until_state(task_id, State.SUCCEEDED)
        assert await bench.queue.consumers("default") == [worker.id]
        await until(lambda: _empty(bench))


@pytest.mark.parametrize("server", ["postgres", "redis"])
async def test_work_resumes_when_a_server_is_back(bench: Bench, server: str) -> None:
    @bench.registry.task("counted")
    async def counted(ctx: Context, payload: Payload) -> int:
        return ctx.attempt

    url = bench.settings.database_url if server == "postgres" else bench.settings.redis_url
    field = "database_url" if server == "postgres" else "redis_url"
    async with wire_to(url) as wire:
        # A hint lost with its connection is republished at its deadline.
        away = {field: wire.url, "hint_deadline_seconds": 1.0}
        async with bench.scheduler(**away) as scheduler, bench.worker(**away) as worker:
            before = await bench.submit(*["counted"] * 20)
            await bench.until_state(before, State.SUCCEEDED)
            for fault in (wire.down, wire.cut):
                fault()
                loop = "heartbeat" if server == "postgres" else "claim"
                during = await bench.submit(*["counted"] * 20)
                if fault == wire.down:
                    failed = {"loop": loop, "result": "failed"}
                    await until(lambda: bench.count("holdfast_loop_turns_total", **failed) > 1)  # noqa: B023
                wire.heal()
                await bench.until_state(during, State.SUCCEEDED)
            # A loop that was cut off in its first iteration has had no success yet.
            await until(lambda: worker.stalled() == scheduler.loops.stalled() == {})
    assert bench.sql("SELECT count(*) FROM effects") == [(60,)]


async def test_hint_loss_under_load_loses_no_task(bench: Bench) -> None:
    @bench.registry.task("counted")
    async def counted(ctx: Context, payload: Payload) -> int:
        await asyncio.sleep(0.01)
        return ctx.attempt

    ids = await bench.submit(*["counted"] * 400)
    async with bench.scheduler(), bench.worker():
        for least in (50, 200):
            await until(lambda: bench.sql("SELECT count(*) FROM effects")[0][0] >= least)  # noqa: B023
            await bench.queue._redis.flushall()
        await bench.until_state(ids[-1], State.SUCCEEDED)
        await until(lambda: bench.sql("SELECT count(*) FROM effects") == [(400,)])
    assert bench.sql("SELECT count(*) FROM tasks WHERE attempt <> 1") == [(0,)]
    assert bench.count("holdfast_redis_amnesia_total") >= 2
