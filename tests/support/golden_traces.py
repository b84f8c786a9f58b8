"""Drive every transition of a task at least once, with real roles, for the golden file of spans.

Each phase waits for what it causes, so that the set of span names and attribute keys is the same in
every run.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import httpx
from aiosmtpd.controller import Controller
from bench import Bench
from http_receiver import serving
from otlp_receiver import Receiver
from sqlalchemy import text
from task_traces import Payload, register_echo, sampled, submit
from waiting import until
from wire import wire_to

from holdfast.api.app import create_api
from holdfast.handlers import Backoff, Context, Discard, Registry, Retry
from holdfast.model.lifecycle import State
from holdfast.worker.worker import EXIT_DEAD

_NOWHERE = "postgresql://x@127.0.0.1:1/x"


async def drive_every_transition(bench: Bench, collector: Receiver) -> None:
    """Run the phases one after the other; all spans have been received when it returns."""
    released = asyncio.Event()
    register_echo(bench)
    register_failures(bench, released)
    register_steps(bench)
    await requests(bench)
    await requests_without_a_database(bench)
    await waits(bench)
    await outcomes(bench)
    await lost_publish(bench, collector)
    await republished(bench)
    await stale_write(bench, released)
    await stale_transaction(bench)
    await dead_worker(bench)
    await stray(bench)
    await shutdown(bench)
    await calls(bench)


def register_failures(bench: Bench, released: asyncio.Event) -> None:
    """Register one handler for each way an attempt can fail; ``released`` ends the deaf one."""
    task = bench.registry.task

    @task("shaky", backoff=Backoff(base_seconds=0.05, jitter=0))
    async def shaky(ctx: Context, payload: Payload) -> None:
        if ctx.attempt == 1:
            raise Retry(after=0.05)
        if ctx.attempt == 2:
            raise ValueError

    @task("hopeless")
    async def hopeless(ctx: Context, payload: Payload) -> None:
        raise Discard("no")

    @task("unstorable", max_attempts=1)
    async def unstorable(ctx: Context, payload: Payload) -> float:
        return 1e400

    @task("endless")
    async def endless(ctx: Context, payload: Payload) -> None:
        await asyncio.Event().wait()

    @task("deaf", backoff=Backoff(base_seconds=0.1, jitter=0))
    async def deaf(ctx: Context, payload: Payload) -> None:
        while ctx.attempt == 1 and not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue


def register_steps(bench: Bench) -> None:
    """Register handlers whose steps are spans."""

    @bench.registry.task("steps")
    def steps(ctx: Context, payload: Payload) -> None:
        with ctx.span("step", pixels=3):
            pass

    @bench.registry.task("order", max_attempts=1)
    async def order(ctx: Context, payload: Payload) -> None:
        async with ctx.transaction() as tx:
            await tx.execute(text("SELECT 1"))
            if payload.get("wrong"):
                await tx.execute(text("SELECT 1/0"))


async def api_calls(
    bench: Bench, calls: Callable[[httpx.AsyncClient], Any], **changes: Any
) -> None:
    """Call an in-process API that exports all its spans."""
    settings = bench.quick(trace_ratio=1.0, log_level="ERROR", **changes)
    app = create_api(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api") as client,
    ):
        await calls(client)


async def requests(bench: Bench) -> None:
    """Submit, read, cancel and retry over the API; nothing runs yet."""
    task = {"name": "echo"}

    async def calls(api: httpx.AsyncClient) -> None:
        made = (await api.post("/tasks/", json=task)).json()
        many = (await api.post("/tasks/batch", json={"tasks": [task, task]})).json()["results"]
        await api.get("/tasks/")
        await api.get(f"/tasks/{made['id']}")
        await api.get(f"/tasks/{made['id']}/events")
        await api.post(f"/tasks/{made['id']}/retry")
        for stored in (made, *(result["task"] for result in many)):
            await api.post(f"/tasks/{stored['id']}/cancel")
        assert (await api.request("BREW", "/tasks/")).status_code == 405
        assert (await api.get("/nothing/here")).status_code == 404

    await api_calls(bench, calls, accept_unknown_names=True)


async def requests_without_a_database(bench: Bench) -> None:
    """Fail a read and leave a submit's outcome unknown."""

    async def calls(api: httpx.AsyncClient) -> None:
        assert (await api.get("/tasks/")).status_code == 503

    await api_calls(bench, calls, database_url=_NOWHERE)
    async with wire_to(bench.settings.database_url) as wire:

        async def lost(api: httpx.AsyncClient) -> None:
            assert (await api.get("/tasks/")).status_code == 200
            wire.refuse()
            wire.lose_reply_to(b"m4rk3d")
            answer = await api.post("/tasks/", json={"name": "echo", "payload": {"a": "m4rk3d"}})
            assert answer.json()["type"].endswith("outcome-unknown")

        await api_calls(
            bench,
            lost,
            database_url=wire.url,
            accept_unknown_names=True,
            submit_timeout_seconds=0.5,
        )


async def waits(bench: Bench) -> None:
    """Let one task wait for its due time and one for a scheduler."""
    run_at = (await bench.store.clock()) + timedelta(seconds=0.2)
    late, _ = await submit(bench, "echo", run_at=run_at)
    starved, _ = await submit(bench, "echo")
    await asyncio.sleep(0.02)
    async with bench.scheduler(), bench.worker():
        await bench.until_state([late, starved], State.SUCCEEDED)


async def outcomes(bench: Bench) -> None:
    """End attempts in every way a worker can end one."""
    good = [(await submit(bench, name))[0] for name in ("shaky", "steps", "order")]
    bad = [(await submit(bench, name))[0] for name in ("hopeless", "unstorable")]
    bad.append((await submit(bench, "order", payload={"wrong": True}))[0])
    bad.append((await submit(bench, "endless", timeout_seconds=0.2, max_attempts=1))[0])
    unknown, _ = await submit(bench, "unknown_name")
    cancelled, _ = await submit(bench, "endless")
    async with bench.scheduler(), bench.worker(unknown_name_seconds=60):
        await bench.until_state(cancelled, State.RUNNING)
        await bench.store.cancel([cancelled], "api:test")
        await bench.until_state(cancelled, State.CANCELLED)
        await bench.until_state(good, State.SUCCEEDED)
        await bench.until_state(bad, State.FAILED)
        await bench.until_state(unknown, State.SCHEDULED)
    await bench.store.cancel([unknown], "api:test")


async def lost_publish(bench: Bench, collector: Receiver) -> None:
    """Fail to publish the hints of a dispatch."""
    task_id, _ = await submit(bench, "echo")
    async with bench.scheduler() as scheduler:
        with patch.object(scheduler._queue, "publish", side_effect=ConnectionError):
            await bench.until_state(task_id, State.QUEUED)
            await collector.until("send default", 1, task_id)
    await bench.store.cancel([task_id], "api:test")


async def republished(bench: Bench) -> None:
    """Publish the hint of an unclaimed task again."""
    task_id, _ = await submit(bench, "echo")
    before = bench.count("holdfast_hints_republished_total")
    async with bench.scheduler(hint_deadline_seconds=0.2):
        await bench.until_state(task_id, State.QUEUED)
        await until(lambda: bench.count("holdfast_hints_republished_total") > before)
    async with bench.worker():
        await bench.until_state(task_id, State.SUCCEEDED)


async def stale_write(bench: Bench, released: asyncio.Event) -> None:
    """Let an attempt write after a scheduler has timed it out."""
    task_id, _ = await submit(bench, "deaf", timeout_seconds=0.2)
    async with bench.scheduler(timeout_grace_seconds=0.2), bench.worker():
        await bench.until_state(task_id, State.SUCCEEDED)
        released.set()
        await until(lambda: bench.count("holdfast_stale_writes_refused_total") == 1)
    released.clear()


async def stale_transaction(bench: Bench) -> None:
    """Let a transaction commit after its attempt was ended."""
    inside, resume = asyncio.Event(), asyncio.Event()

    @bench.registry.task("fenced")
    async def fenced(ctx: Context, payload: Payload) -> None:
        async with ctx.transaction():
            inside.set()
            await resume.wait()

    (task_id,) = await bench.offer("fenced", traceparent=sampled())
    lost = {"queue": "default", "name": "fenced", "outcome": "lost"}
    async with bench.worker(heartbeat_seconds=60, lease_seconds=180):
        await inside.wait()
        bench.sql(
            "UPDATE tasks SET state = 'SCHEDULED', epoch = epoch + 1, worker_id = NULL, "
            f"claim_token = NULL WHERE id = '{task_id}'"
        )
        resume.set()
        await until(lambda: bench.count("holdfast_attempts_finished_total", **lost) == 1)
    await bench.store.cancel([task_id], "api:test")


async def dead_worker(bench: Bench) -> None:
    """Let a scheduler end the attempt of a worker whose lease was lost, as retry and as failure."""
    ids = [(await submit(bench, "endless", max_losses=losses))[0] for losses in (1, 5)]
    async with bench.scheduler():
        async with bench.incarnation() as (worker, running):
            await bench.until_state(ids, State.RUNNING)
            bench.sql(
                "UPDATE workers SET dead_at = clock_timestamp(), dead_reason = 'test' "
                f"WHERE id = '{worker.id}'"
            )
            assert await running == EXIT_DEAD
        await bench.until_state(ids[0], State.FAILED)
        await bench.until_state(ids[1], State.QUEUED)
    await bench.store.cancel(ids, "api:test")


async def stray(bench: Bench) -> None:
    """Let a worker release an attempt that only the database records as its own."""
    async with bench.worker() as worker:
        (grant,) = await bench.claimed("echo", worker=worker.id, traceparent=sampled())
        await bench.until_state(grant.task_id, State.SCHEDULED)


async def shutdown(bench: Bench) -> None:
    """Stop a worker while a handler runs."""
    task_id, _ = await submit(bench, "endless")
    async with bench.scheduler(), bench.worker(shutdown_grace_seconds=0.1):
        await bench.until_state(task_id, State.RUNNING)
    await bench.store.cancel([task_id], "api:test")


async def calls(bench: Bench) -> None:
    """Call other systems by the built-in handlers, with success and without."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    mail = Controller(type("Mailbox", (), {})(), hostname="127.0.0.1", port=port)
    mail.start()
    bench.registry = Registry()
    bench.registry.load_builtin(bench.quick(smtp_port=port, http_allowed_hosts=("127.0.0.1",)))
    try:
        with serving() as server:
            moved = {"url": f"{server.url}/redirect/302?to=/answer/200", "method": "GET"}
            broken = {"url": "http://127.0.0.1:1/", "method": "GET"}
            sent, _ = await submit(bench, "send_email", payload={"to": "user@example.com"})
            asked, _ = await submit(bench, "http_request", payload=moved)
            failed, _ = await submit(bench, "http_request", payload=broken, max_attempts=1)
            async with bench.scheduler(), bench.worker():
                await bench.until_state([sent, asked], State.SUCCEEDED)
                await bench.until_state(failed, State.FAILED)
    finally:
        mail.stop()
