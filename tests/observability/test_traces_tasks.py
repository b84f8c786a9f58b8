"""The spans of a task, exported by schedulers and workers to a collector."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from bench import Bench
from otlp_receiver import Receiver
from task_traces import SECRET, Payload, attempts, register_echo, sampled, submit
from waiting import until
from wire import wire_to

from holdfast.handlers import Backoff, Context, Discard, Retry
from holdfast.model.dispatch import Hint
from holdfast.model.lifecycle import Reason, State
from holdfast.telemetry.trace_context import nanoseconds
from holdfast.worker.worker import EXIT_DEAD


async def test_task_that_succeeds_first_time(traced: Bench, collector: Receiver) -> None:
    register_echo(traced)
    run_at = (await traced.store.clock()) + timedelta(seconds=0.3)
    task_id, create = await submit(traced, "echo", run_at=run_at, payload={"key": SECRET})
    async with traced.scheduler(), traced.worker() as worker:
        await traced.until_state(task_id, State.SUCCEEDED)
    (process,) = await attempts(collector, traced, task_id)
    assert (process.kind, process.error) == ("CONSUMER", False)
    assert (process.service, process.instance) == ("holdfast-worker", "test")
    assert process.attributes["holdfast.worker.id"] == str(worker.id)
    assert process.attributes["messaging.destination.name"] == "default"
    assert process.attributes["messaging.operation.type"] == "process"
    assert list(process.events) == ["claimed", "effect committed"]
    send, dispatch = collector.one("send default", task_id), collector.one("dispatch")
    assert send.kind == "PRODUCER"
    assert (send.service, send.attributes["holdfast.republished"]) == ("holdfast-scheduler", False)
    assert send.links == process.links == [dispatch.key]
    assert dispatch.parent_id == ""
    for name in ("scheduled", "send default", "queued", "process default"):
        span = collector.one(name, task_id)
        assert f"00-{span.trace_id}-{span.parent_id}-01" == create, name
    assert collector.one("finish", task_id).parent_id == process.span_id
    assert collector.orphans(create) == []
    assert collector.loose_links() == []
    assert SECRET not in str(collector.spans)


async def test_waits_are_measured_by_the_databases_clock(
    traced: Bench, collector: Receiver
) -> None:
    task_id, _ = await submit(traced, "echo")
    task = (await traced.story(task_id)).task
    await until(lambda: traced.sql("SELECT clock_timestamp() - due_at > '20 ms' FROM tasks")[0][0])
    async with traced.scheduler():
        await traced.until_state(task_id, State.QUEUED)
    register_echo(traced)
    async with traced.worker():
        await traced.until_state(task_id, State.SUCCEEDED)
    story = await traced.story(task_id)
    (dispatched,) = [e.at for e in story.events if e.reason is Reason.DISPATCHED]
    (claimed,) = [e.at for e in story.events if e.reason is Reason.CLAIMED]
    starved, queued = collector.one("starved", task_id), collector.one("queued", task_id)
    assert (starved.start, starved.end) == (nanoseconds(task.due_at), nanoseconds(dispatched))
    assert (queued.start, queued.end) == (nanoseconds(dispatched), nanoseconds(claimed))
    assert collector.named("scheduled", task_id) == [], "it was due when it was stored"


async def test_retry_is_another_attempt_in_the_same_trace(
    traced: Bench, collector: Receiver
) -> None:
    @traced.registry.task("shaky")
    async def shaky(ctx: Context, payload: Payload) -> int:
        if ctx.attempt == 1:
            raise Retry(after=0.2, reason=SECRET)
        if ctx.attempt == 2:
            raise ValueError(SECRET)
        return ctx.attempt

    task_id, create = await submit(traced, "shaky")
    async with traced.scheduler(), traced.worker():
        await traced.until_state(task_id, State.SUCCEEDED)
    first, second, third = await attempts(collector, traced, task_id)
    assert (first.error, first.attributes["error.type"]) == (True, "Retry")
    assert first.events["retry scheduled"] == {"holdfast.delay_seconds": 0.2}
    assert second.attributes["error.type"] == "ValueError"
    assert first.key not in first.links
    assert first.key in second.links
    assert second.key in third.links
    assert {span.trace_id for span in (first, second, third)} == {create.split("-")[1]}
    backoff = collector.named("scheduled", task_id)
    assert len(backoff) == 2
    assert backoff[0].end - backoff[0].start == pytest.approx(200e6, abs=5e6)
    assert collector.loose_links() == []
    assert SECRET not in str(collector.spans)


async def test_dead_letter_records_its_reason(traced: Bench, collector: Receiver) -> None:
    @traced.registry.task("hopeless")
    async def hopeless(ctx: Context, payload: Payload) -> None:
        raise Discard(SECRET)

    task_id, _ = await submit(traced, "hopeless")
    async with traced.scheduler(), traced.worker():
        await traced.until_state(task_id, State.FAILED)
    (process,) = await attempts(collector, traced, task_id)
    assert process.error
    assert process.events["dead letter"] == {"holdfast.reason": "discarded"}


async def test_unstorable_result_is_a_failure(traced: Bench, collector: Receiver) -> None:
    @traced.registry.task("nul")
    async def nul(ctx: Context, payload: Payload) -> float:
        return 1e400

    task_id, _ = await submit(traced, "nul", max_attempts=1)
    async with traced.scheduler(), traced.worker():
        await traced.until_state(task_id, State.FAILED)
    (process,) = await attempts(collector, traced, task_id)
    assert process.attributes["error.type"] == "Unstorable"


async def test_scheduler_emits_the_attempt_of_a_killed_worker(
    traced: Bench, collector: Receiver
) -> None:
    inside: list[str | None] = []

    @traced.registry.task("call")
    async def call(ctx: Context, payload: Payload) -> int:
        with ctx.client_span("GET", {"server.address": "elsewhere"}):
            inside.append(ctx.traceparent)
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        return ctx.attempt

    task_id, create = await submit(traced, "call")
    async with traced.scheduler():
        async with traced.incarnation(heartbeat_seconds=0.5) as (worker, _):
            await collector.until("GET")
            killed = worker.id
        async with traced.worker():
            await traced.until_state(task_id, State.SUCCEEDED)
    lost, succeeded = await attempts(collector, traced, task_id)
    assert (lost.service, lost.attributes["holdfast.outcome"]) == (
        "holdfast-scheduler",
        "lease lost",
    )
    assert lost.attributes["holdfast.worker.id"] == str(killed)
    assert lost.events["taken back"]["holdfast.actor"] == "scheduler:test"
    assert lost.events["taken back"]["holdfast.worker.id"] == str(killed)
    assert collector.one("sweep").key in lost.links
    assert lost.key in succeeded.links
    ours = collector.named("GET")
    assert [span.parent_id for span in ours] == [lost.span_id, succeeded.span_id]
    assert [span.traceparent for span in ours] == inside
    assert collector.orphans(create) == []
    assert collector.loose_links() == []


async def test_zombie_emits_the_refused_write_but_no_attempt(
    traced: Bench, collector: Receiver
) -> None:
    released = asyncio.Event()

    @traced.registry.task("uncooperative", backoff=Backoff(base_seconds=0.1, jitter=0))
    async def uncooperative(ctx: Context, payload: Payload) -> int:
        while ctx.attempt == 1 and not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return ctx.attempt

    task_id, create = await submit(traced, "uncooperative", timeout_seconds=0.2)
    async with traced.scheduler(timeout_grace_seconds=0.2), traced.worker():
        await traced.until_state(task_id, State.SUCCEEDED)
        released.set()
        await until(lambda: traced.count("holdfast_stale_writes_refused_total") == 1)
    first, _ = await attempts(collector, traced, task_id)
    assert first.attributes["holdfast.outcome"] == "timed out"
    refused = collector.one("stale write refused", task_id)
    assert refused.error
    assert refused.parent_id == first.span_id
    assert collector.orphans(create) == []


async def test_incarnation_marked_dead_emits_no_attempt(traced: Bench, collector: Receiver) -> None:
    @traced.registry.task("endless")
    async def endless(ctx: Context, payload: Payload) -> None:
        await asyncio.Event().wait()

    create = sampled()
    (task_id,) = await traced.offer("endless", traceparent=create)
    async with traced.incarnation() as (_, running):
        await traced.until_state(task_id, State.RUNNING)
        traced.sql("UPDATE workers SET dead_at = clock_timestamp(), dead_reason = 'test'")
        assert await running == EXIT_DEAD
    assert [span.name for span in collector.spans] == ["queued"]


async def test_cancel_of_a_running_task_is_an_event_of_its_attempt(
    traced: Bench, collector: Receiver
) -> None:
    @traced.registry.task("endless")
    async def endless(ctx: Context, payload: Payload) -> None:
        await asyncio.Event().wait()

    task_id, _ = await submit(traced, "endless")
    async with traced.scheduler(), traced.worker():
        await traced.until_state(task_id, State.RUNNING)
        await traced.store.cancel([task_id], "api:test")
        await traced.until_state(task_id, State.CANCELLED)
    (process,) = await attempts(collector, traced, task_id)
    assert list(process.events) == ["claimed", "cancel requested"]
    assert not process.error, "nothing went wrong"


async def test_stop_releases_and_the_next_worker_continues(
    traced: Bench, collector: Receiver
) -> None:
    @traced.registry.task("slow")
    async def slow(ctx: Context, payload: Payload) -> int:
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        return ctx.attempt

    task_id, _ = await submit(traced, "slow")
    async with traced.scheduler():
        async with traced.worker(shutdown_grace_seconds=0.1):
            await traced.until_state(task_id, State.RUNNING)
        async with traced.worker():
            await traced.until_state(task_id, State.SUCCEEDED)
    first, _ = await attempts(collector, traced, task_id)
    assert first.attributes["holdfast.outcome"] == "handed back"
    assert "shutting down" in first.events


async def test_task_without_a_handler_has_an_attempt_span(
    traced: Bench, collector: Receiver
) -> None:
    create = sampled()
    (task_id,) = await traced.offer("nobody_knows", traceparent=create)
    async with traced.worker(unknown_name_seconds=60):
        await traced.until_state(task_id, State.SCHEDULED)
    (process,) = await attempts(collector, traced, task_id)
    story = await traced.story(task_id)
    rest = (story.task.due_at - story.events[-1].at).total_seconds()
    (delay,) = process.events["retry scheduled"].values()
    assert 54 <= delay <= 60
    assert delay == pytest.approx(rest, abs=0.05)


async def test_orphan_is_emitted_by_the_worker_that_releases_it(
    traced: Bench, collector: Receiver
) -> None:
    register_echo(traced)
    async with traced.worker() as worker:
        (grant,) = await traced.claimed("echo", worker=worker.id, traceparent=sampled())
        await traced.until_state(grant.task_id, State.SCHEDULED)
    (process,) = await attempts(collector, traced, grant.task_id)
    assert process.attributes["holdfast.outcome"] == "handed back"
    assert process.start == nanoseconds(grant.claimed_at)


async def test_resent_claim_keeps_the_time_it_was_queued(
    traced: Bench, collector: Receiver
) -> None:
    register_echo(traced)
    task_id, _ = await submit(traced, "echo")
    async with wire_to(traced.settings.database_url) as wire:
        wire.lose_reply_to(task_id.bytes)
        async with traced.worker(database_url=wire.url):
            await traced.hint()
            await wire.reply_lost.wait()
            await traced.until_state(task_id, State.SUCCEEDED)
    events = (await traced.story(task_id)).events
    (dispatched,) = [event.at for event in events if event.reason is Reason.DISPATCHED]
    queued = collector.one("queued", task_id)
    assert queued.start == nanoseconds(dispatched)


async def test_republished_hint_is_another_send(traced: Bench, collector: Receiver) -> None:
    task_id, create = await submit(traced, "echo")
    async with traced.scheduler(hint_deadline_seconds=0.2):
        await traced.until_state(task_id, State.QUEUED)
        await until(lambda: traced.count("holdfast_hints_republished_total") >= 1)
    _, again, *_ = collector.named("send default", task_id)
    assert again.attributes["holdfast.republished"] is True
    assert again.attributes["holdfast.epoch"] == 0
    assert again.links == [collector.named("republish")[0].key]
    assert collector.orphans(create) == []


async def test_failed_publishing_is_recorded_as_an_error(
    traced: Bench, collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, _ = await submit(traced, "echo")

    async def broken(hints: list[Hint], batch_traceparent: str | None) -> None:
        raise ConnectionError(SECRET)

    async with traced.scheduler() as scheduler:
        monkeypatch.setattr(scheduler._queue, "publish", broken)
        await traced.until_state(task_id, State.QUEUED)
        await collector.until("send default")
    for name in ("send default", "dispatch"):
        span = collector.named(name)[0]
        assert (span.error, span.attributes["error.type"]) == (True, "ConnectionError")
