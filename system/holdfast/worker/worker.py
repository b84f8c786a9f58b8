"""The worker: a claimer, an executor and a finisher, with a heartbeat that keeps the lease.

The lease governs liveness only: without it a worker claims nothing. What it may write is decided by
the epoch of each claim.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from uuid import uuid4

from holdfast.errors import Misconfigured, OutcomeUnknown, Unavailable
from holdfast.handlers.cancellation import StopReason
from holdfast.handlers.registry import Registry
from holdfast.handlers.sql_spans import SqlSpans
from holdfast.handlers.transactions import Transactions
from holdfast.instrumentation.telemetry import Telemetry
from holdfast.instrumentation.worker import WorkerInstrumentation
from holdfast.queue.hints import HintQueue
from holdfast.queue.server import unsuitable_redis
from holdfast.runtime.loop_lag import LoopLag
from holdfast.runtime.supervision import LoopSupervisor
from holdfast.runtime.turns import Turns
from holdfast.settings import Settings
from holdfast.store.connections import create_engine
from holdfast.store.store import Store
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.metrics import Metrics
from holdfast.worker.claimer import READ_BLOCK_SECONDS, Claimer, Shutdown
from holdfast.worker.executor import Executor
from holdfast.worker.finisher import Finisher
from holdfast.worker.handler_runner import HandlerRunner
from holdfast.worker.heartbeat import Heartbeat
from holdfast.worker.lease import Lease
from holdfast.worker.slot_pool import SlotPool

EXIT_DEAD = 3  # this incarnation was marked dead, or has too few slots left: start a new one

_RESEND_SECONDS = 0.2
_REDIS_CONNECTIONS = 2


class Worker:
    """One incarnation, with an ``id`` that is never reused; ``run`` lasts until ``stop``."""

    def __init__(self, settings: Settings, registry: Registry, telemetry: Telemetry) -> None:
        self.id = uuid4()
        self._settings = settings
        self._registry = registry
        telemetry = replace(telemetry, log=telemetry.log.bind(worker=str(self.id)))
        self._log = log = telemetry.log
        self._telemetry = WorkerInstrumentation(telemetry, self.id)
        name = f"holdfast-worker:{settings.label}"
        # Claim, finish, heartbeat and handlers must not wait for each other's connections.
        self._claiming = Store(settings, connections=1, application_name=name)
        self._finishing = Store(settings, connections=1, application_name=name)
        self._beating = Store(settings, connections=1, application_name=name)
        self._engine = create_engine(
            settings,
            connections=settings.transaction_connections,
            application_name=f"{name}:handlers",
            autocommit=False,
        )
        if telemetry.tracing.recording:
            SqlSpans(telemetry.tracing, self._engine)
        turns = Turns()
        self._transactions = Transactions(
            self._engine,
            self._finishing,
            self.id,
            turns,
            result_bytes_max=settings.result_bytes_max,
            commit_timeout_seconds=settings.statement_timeout_seconds,
        )
        self._queue = HintQueue(settings, connections=_REDIS_CONNECTIONS)
        self._finisher = Finisher(self._finishing, self.id, log)
        grace = settings.timeout_grace_seconds
        self.slots = SlotPool(settings.worker_concurrency, log, dead_seconds=grace)
        self._dead_slots = 0  # as logged
        self._used_up = ""  # why this worker has left, if too few slots were left
        self._executor = Executor(
            settings,
            HandlerRunner(settings, registry, self._transactions, turns),
            self._finisher,
            self.slots,
            self._telemetry,
            log,
        )
        self._lease = Lease(settings.lease_seconds)
        self._grace_ends = math.inf
        self.claims = LoopSupervisor(log, telemetry.metrics)
        self._claimer = Claimer(
            settings,
            self.id,
            self._claiming,
            self._queue,
            self._executor,
            Shutdown(self.claims, self._lease, self._grace_left),
            self._telemetry,
            log,
        )
        stalled = 2 * READ_BLOCK_SECONDS + settings.statement_timeout_seconds
        self.claims.add("claim", self._claim, stalled_seconds=stalled)
        self._heartbeat = Heartbeat(
            self.id,
            self._beating,
            self._lease,
            self._claimer,
            self._executor,
            self._telemetry,
            log,
        )
        self.beats = LoopSupervisor(log, telemetry.metrics)
        self.beats.add("heartbeat", self._beat, stalled_seconds=settings.lease_seconds)
        self._add_gauges(telemetry.metrics)

    async def run(self) -> int:
        """Return an exit code: 0 after ``stop``, EXIT_DEAD if a new incarnation is needed.

        Raises:
            Misconfigured: Redis can never serve hints. The names of the handlers are announced even
                so: submits are accepted until an operator has mended it.
        """
        problem = await unsuitable_redis(self._settings)
        if not await self._register():
            await self._close()
            return 0
        if problem:
            await self._beating.retire(self.id, None)
            await self._close()
            raise Misconfigured(problem)
        self._log.info(
            "Worker started", event_name=EventName.WORKER_STARTED, queues=self._settings.queues
        )
        finishing = asyncio.create_task(self._finisher.run())
        beating = asyncio.create_task(self.beats.run())
        try:
            await self.claims.run()
            await self._claimer.leave()
            await self._wind_down(finishing)
            self.beats.stop()
            await beating
            if self._lease.dead.is_set():
                return EXIT_DEAD
            await self._beating.retire(self.id, self._executor.begun_until)
        except (OutcomeUnknown, Unavailable, TimeoutError) as error:
            self._log.warning(
                "Worker stopped without reaching Postgres; its lease will expire",
                event_name=EventName.WORKER_NOT_RETIRED,
                error=error,
            )
        finally:
            finishing.cancel()
            beating.cancel()
            await self._close()
            self._log.info("Worker stopped", event_name=EventName.WORKER_STOPPED)
        return EXIT_DEAD if self._used_up else 0

    def stop(self) -> None:
        """Stop claiming; after the grace the remaining attempts are released."""
        if not self.claims.stopping:
            now = asyncio.get_running_loop().time()
            self._grace_ends = now + self._settings.shutdown_grace_seconds
        self.claims.stop()
        self.slots.wake()

    def stalled(self) -> dict[str, str]:
        """Return what makes no progress, in the form of ``LoopSupervisor.stalled``."""
        finishing = self._finisher.stalled(self._settings.lease_seconds)
        slots = {"slots": self._used_up} if self._used_up else {}
        return {**self.claims.stalled(), **self.beats.stalled(), **finishing, **slots}

    def _add_gauges(self, metrics: Metrics) -> None:
        """Expose gauges of this process: event loop lag, slots, connections."""
        LoopLag(self.beats, metrics)
        metrics.slots.set(self._settings.worker_concurrency)
        metrics.slots_free.set_function(lambda: self.slots.free)
        metrics.slots_dead.set_function(lambda: self.slots.dead)
        metrics.watch_pool("claim", self._claiming.connections_used, 1)
        metrics.watch_pool("finish", self._finishing.connections_used, 1)
        metrics.watch_pool("heartbeat", self._beating.connections_used, 1)
        transactions = self._settings.transaction_connections
        metrics.watch_pool(
            "transactions", lambda: self._transactions.connections_used, transactions
        )

    # Slots

    async def _claim(self) -> None:
        """Claim once; leave if handlers that do not end have used up the slots."""
        await self._claimer.claim_once()
        dead = self.slots.dead
        if dead > self._dead_slots:
            self._log.warning(
                "A handler does not end although its attempt has ended; it keeps its slot",
                event_name=EventName.SLOT_DEAD,
                dead=dead,
                slots=self._settings.worker_concurrency,
            )
        self._dead_slots = dead
        left = self._settings.worker_concurrency - dead
        blocked = left < len(self._settings.queues) or self._claimer.blocked
        if blocked and not self.claims.stopping:
            self._used_up = f"handlers that do not end keep {dead} slots, and {left} are too few"
            self._log.error(
                "Too few slots are left; stopping, so that a new incarnation can start",
                event_name=EventName.SLOTS_USED_UP,
                dead=dead,
                slots=self._settings.worker_concurrency,
            )
            self.stop()

    # Lease

    async def _beat(self) -> None:
        """Send a heartbeat, then sleep until the next one is due."""
        sent = time.monotonic()
        if not await self._heartbeat.send():
            self._die()
            return
        await self.beats.sleep(self._settings.heartbeat_seconds - (time.monotonic() - sent))

    def _die(self) -> None:
        """Stop everything: no write of a dead incarnation is accepted."""
        self._log.error(
            "This incarnation was marked dead; stopping its handlers",
            event_name=EventName.INCARNATION_DEAD,
        )
        self._lease.lose()
        self._executor.stop(StopReason.LEASE_LOST)
        self.beats.stop()
        self.stop()

    # Start and stop

    async def _register(self) -> bool:
        """Register this incarnation; return False if ``stop`` came first."""
        while not self.claims.stopping:
            try:
                await self._beating.register(
                    self.id,
                    self._settings.label,
                    self._settings.queues,
                    self._registry.announcements(),
                )
            except (OutcomeUnknown, Unavailable) as error:
                self._log.warning(
                    "Registration failed; retrying",
                    event_name=EventName.REGISTRATION_FAILED,
                    error=error,
                )
                await self.claims.sleep(_RESEND_SECONDS)
            else:
                return True
        return False

    def _grace_left(self) -> float:
        return self._grace_ends - asyncio.get_running_loop().time()

    async def _wind_down(self, finishing: asyncio.Task[None]) -> None:
        """Wait out the grace, release the remaining attempts, wait until every end is answered."""
        if await self._ended_within(self._grace_left()):
            self._log.info(
                "All handlers ended within the grace period", event_name=EventName.HANDLERS_ENDED
            )
        elif not self._lease.dead.is_set():
            self._log.info(
                "Grace period is over; releasing the remaining attempts",
                event_name=EventName.ATTEMPTS_RELEASED,
                attempts=len(self._executor.attempts),
            )
            self._executor.stop(StopReason.SHUTTING_DOWN)
            await self._ended_within(self._settings.statement_timeout_seconds)
        if not self._lease.dead.is_set():
            self._finisher.stop()
            async with asyncio.timeout(self._settings.statement_timeout_seconds):
                await finishing

    async def _ended_within(self, seconds: float) -> bool:
        """Return whether every attempt was settled within ``seconds``; return early once dead."""
        attempts = self._executor.attempts
        await self.slots.wait(lambda: not attempts or self._lease.dead.is_set(), seconds)
        return not attempts

    async def _close(self) -> None:
        await self._executor.close()
        for store in (self._claiming, self._finishing, self._beating):
            await store.close()
        await self._transactions.close()
        await self._engine.dispose()
        await self._queue.close()
        await self._registry.close()
