"""A heartbeat on its own: it releases orphans, but no attempt whose grant is still on its way."""

from __future__ import annotations

import asyncio
import io
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from holdfast.handlers.cancellation import StopReason
from holdfast.instrumentation.telemetry import Telemetry
from holdfast.instrumentation.worker import WorkerInstrumentation
from holdfast.model.claim import AttemptKey, Claimed, Failure, OwnedAttempt
from holdfast.model.dispatch import Hint
from holdfast.model.lifecycle import Reason
from holdfast.queue.hints import Delivery, HintQueue
from holdfast.runtime.supervision import LoopSupervisor
from holdfast.settings import Settings
from holdfast.store.store import Store
from holdfast.telemetry.logs import create_logger
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.tracing import Tracing
from holdfast.worker.claimer import Claimer, Shutdown
from holdfast.worker.executor import Executor
from holdfast.worker.heartbeat import Heartbeat
from holdfast.worker.lease import Lease
from holdfast.worker.slot_pool import SlotPool


class Servers:
    """Postgres and Redis of one worker: one hint, and replies that arrive when they are let."""

    def __init__(self) -> None:
        self.hint = Hint(uuid4(), 0, "default")
        self.claim_answer, self.heartbeat_answer = asyncio.Event(), asyncio.Event()
        self.claim_sent, self.heartbeat_sent = asyncio.Event(), asyncio.Event()
        self.told: datetime | None = datetime.max.replace(tzinfo=UTC)  # begun until then
        self.owned: list[OwnedAttempt] | None = [
            OwnedAttempt(
                *(self.hint.task_id, 1, 1, "echo", "default", None),
                cancel_requested=False,
                claimed_at=datetime(2026, 1, 1, tzinfo=UTC),
            )
        ]

    async def claim(self, *_: object, **__: object) -> Claimed:
        self.claim_sent.set()
        await self.claim_answer.wait()
        return Claimed()  # the grant itself does not matter here

    async def heartbeat(self, _: UUID, begun_until: datetime | None) -> list[OwnedAttempt] | None:
        self.told = begun_until
        self.heartbeat_sent.set()
        await self.heartbeat_answer.wait()
        return self.owned

    async def read(self, *_: object, **__: object) -> list[Delivery]:
        return [Delivery("default", b"1-1", self.hint)]

    async def requeue(self, _: Sequence[Delivery]) -> None: ...

    async def ack(self, _: Sequence[Delivery]) -> None: ...


class Attempts:
    """An executor that runs nothing and records its calls."""

    def __init__(self, slots: SlotPool) -> None:
        self.slots = slots
        self.attempts: dict[AttemptKey, Any] = {}
        self.known: set[AttemptKey] = set()
        self.begun_until: datetime | None = None
        self.released: list[AttemptKey] = []
        self.ends: list[Failure] = []
        self.stopped: list[AttemptKey] = []

    def release(self, attempt: OwnedAttempt, end: Failure, span: object) -> None:
        self.released.append(attempt.key)
        self.ends.append(end)

    def lost(self, key: AttemptKey) -> None:
        self.stopped.append(key)


class Worker:
    """A claimer and a heartbeat that share ``servers`` and ``attempts``."""

    def __init__(self) -> None:
        self.servers = servers = Servers()
        log = create_logger(style="json", stream=io.StringIO())
        self.metrics = metrics = Metrics("worker")
        slots = SlotPool(4, log, dead_seconds=1.0)
        self.attempts = Attempts(slots)
        self.lease = Lease(10.0)
        self.lease.renew(math.inf)
        telemetry = WorkerInstrumentation(Telemetry(log, metrics, Tracing(0.0, None)), uuid4())
        executor = cast("Executor", self.attempts)
        store = cast("Store", servers)
        shutdown = Shutdown(LoopSupervisor(log, metrics), self.lease, lambda: math.inf)
        self.claimer = Claimer(
            Settings(),
            uuid4(),
            store,
            cast("HintQueue", servers),
            executor,
            shutdown,
            telemetry,
            log,
        )
        self.heartbeat = Heartbeat(
            uuid4(), store, self.lease, self.claimer, executor, telemetry, log
        )


@pytest.fixture
async def worker() -> Worker:
    return Worker()


async def test_an_attempt_that_nothing_here_knows_is_released(worker: Worker) -> None:
    worker.servers.heartbeat_answer.set()
    assert await worker.heartbeat.send()
    key = (worker.servers.hint.task_id, 1)
    assert worker.attempts.released == [key]
    # Due again at once: it is not the task's fault.
    assert worker.attempts.ends == [Failure(*key, Reason.RELEASED, delay_seconds=0.0)]


async def test_heartbeat_says_until_when_attempts_have_begun(worker: Worker) -> None:
    worker.servers.heartbeat_answer.set()
    for begun_until in (None, datetime(2026, 1, 1, tzinfo=UTC), None):
        worker.attempts.begun_until = begun_until
        assert await worker.heartbeat.send()
        assert worker.servers.told == begun_until


async def test_round_trip_of_a_heartbeat_is_measured(worker: Worker) -> None:
    started = time.monotonic()
    sending = asyncio.create_task(worker.heartbeat.send())
    await worker.servers.heartbeat_sent.wait()
    await asyncio.sleep(0.05)
    worker.servers.heartbeat_answer.set()
    assert await sending
    (name,) = (m.name for m in worker.metrics.registry.collect() if "heartbeat" in m.name)
    measured = worker.metrics.registry.get_sample_value(name)
    assert measured is not None
    assert 0.05 <= measured <= time.monotonic() - started


@pytest.mark.parametrize("claimed_first", [True, False])
@pytest.mark.parametrize("answered_between", [True, False])
async def test_a_grant_in_flight_is_no_orphan(
    worker: Worker, *, claimed_first: bool, answered_between: bool
) -> None:
    servers = worker.servers
    parts = [
        (worker.claimer.claim_once, servers.claim_sent),
        (worker.heartbeat.send, servers.heartbeat_sent),
    ]
    running = []
    for start, sent in parts if claimed_first else reversed(parts):
        running.append(asyncio.ensure_future(start()))
        await sent.wait()
    if answered_between:
        servers.claim_answer.set()
        await running[0 if claimed_first else 1]
    servers.heartbeat_answer.set()
    await running[1 if claimed_first else 0]
    assert worker.attempts.released == []
    servers.claim_answer.set()
    await asyncio.gather(*running)


async def test_an_attempt_that_ended_since_the_heartbeat_was_sent_is_no_orphan(
    worker: Worker,
) -> None:
    servers, attempts = worker.servers, worker.attempts
    attempts.known = {(servers.hint.task_id, 1)}
    sending = asyncio.create_task(worker.heartbeat.send())
    await servers.heartbeat_sent.wait()
    attempts.known = set()
    servers.heartbeat_answer.set()
    assert await sending
    assert attempts.released == []


async def test_an_attempt_that_began_since_the_heartbeat_was_sent_is_not_lost(
    worker: Worker,
) -> None:
    servers, attempts = worker.servers, worker.attempts
    servers.owned = []
    attempts.known = {(lost := uuid4(), 1)}
    sending = asyncio.create_task(worker.heartbeat.send())
    await servers.heartbeat_sent.wait()
    attempts.known = {(lost, 1), (uuid4(), 1)}
    servers.heartbeat_answer.set()
    assert await sending
    assert attempts.stopped == [(lost, 1)]


async def test_a_cancelled_attempt_is_told_to_stop(worker: Worker) -> None:
    servers, told = worker.servers, []

    class Running:
        def stop(self, reason: StopReason) -> None:
            told.append(reason)

    (owned,) = servers.owned or []
    servers.owned = [
        OwnedAttempt(
            *(owned.task_id, 1, 1, "echo", "default", None),
            cancel_requested=True,
            claimed_at=owned.claimed_at,
        )
    ]
    worker.attempts.attempts[owned.key] = Running()
    servers.heartbeat_answer.set()
    assert await worker.heartbeat.send()
    assert told == [StopReason.CANCEL_REQUESTED]


async def test_a_dead_incarnation_does_not_renew_its_lease(worker: Worker) -> None:
    worker.lease.renew(-math.inf)
    worker.servers.owned = None
    worker.servers.heartbeat_answer.set()
    assert not await worker.heartbeat.send()
    assert not worker.lease.held
    assert worker.attempts.released == []
