"""The worker: an intake, slots and a finisher; its heartbeat keeps the lease.

The lease is about liveness only: without one, nothing is claimed. What a worker may write is
decided by the epoch of each claim.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from observability.event_names import EventName
from observability.metrics import Metrics
from system.database import connections_used, create_engine
from system.errors import OutcomeUnknown, Unavailable
from system.finisher import Finisher
from system.handlers.cancellation import StopReason
from system.handlers.registry import Registry
from system.handlers.sql_spans import SqlSpans
from system.handlers.transaction import Transactions
from system.intake import READ_BLOCK_SECONDS, Ending, Intake
from system.lease import Lease
from system.lifecycle import Reason
from system.loops import Loops
from system.pulse import Pulse
from system.queue import HintQueue
from system.records import Failure, Owned
from system.settings import Settings
from system.slots import Key, Slots
from system.store import Store
from system.telling.attempts import Attempts
from system.telling.telemetry import Telemetry

EXIT_DEAD = 3  # this incarnation was marked dead: start a new one

_RESEND_SECONDS = 0.2
_REDIS_CONNECTIONS = 2


class Worker:
    """One incarnation: its ``id`` is fresh and never used again; ``run`` until ``stop``."""

    def __init__(self, settings: Settings, registry: Registry, telemetry: Telemetry) -> None:
        self.id = uuid4()
        self._settings = settings
        self._registry = registry
        telemetry = replace(telemetry, log=telemetry.log.bind(worker=str(self.id)))
        self._log = log = telemetry.log
        self._telling = telling = Attempts(telemetry, self.id)
        name = f"holdfast-worker:{settings.label}"
        # Claim, finish and heartbeat never wait for each other's connection, nor for handlers'.
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
        self._transactions = Transactions(
            self._engine,
            self._finishing,
            self.id,
            result_bytes_max=settings.result_bytes_max,
            commit_timeout_seconds=settings.statement_timeout_seconds,
        )
        self._queue = HintQueue(settings, connections=_REDIS_CONNECTIONS)
        self._finisher = Finisher(self._finishing, self.id, log)
        self.slots = Slots(settings, registry, self._transactions, self._finisher, telling, log)
        self._lease = Lease(settings.lease_seconds)
        self._grace_ends = math.inf
        self.claims = Loops(log, telemetry.metrics)
        self._intake = Intake(
            settings,
            self.id,
            self._claiming,
            self._queue,
            self.slots,
            Ending(self.claims, self._lease, self._grace_left),
            telling,
            log,
        )
        stalled = 2 * READ_BLOCK_SECONDS + settings.statement_timeout_seconds
        self.claims.add("claim", self._intake.turn, stalled_seconds=stalled)
        self.beats = Loops(log, telemetry.metrics)
        self.beats.add("heartbeat", self._beat_turn, stalled_seconds=settings.lease_seconds)
        self._show_health(telemetry.metrics)

    async def run(self) -> int:
        """Returns an exit code after ``stop`` (0), or when this incarnation is dead (EXIT_DEAD)."""
        if not await self._register():
            await self._close()
            return 0
        self._log.info(
            "Worker started", event_name=EventName.WORKER_STARTED, queues=self._settings.queues
        )
        finishing = asyncio.create_task(self._finisher.run())
        beating = asyncio.create_task(self.beats.run())
        try:
            await self.claims.run()
            await self._intake.leave()
            await self._wind_down(finishing)
            self.beats.stop()
            await beating
            if self._lease.dead.is_set():
                return EXIT_DEAD
            await self._beating.retire(self.id)
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
        return 0

    def stop(self) -> None:
        """Stops taking hints; running handlers get the grace, then are handed back."""
        if not self.claims.stopping:
            now = asyncio.get_running_loop().time()
            self._grace_ends = now + self._settings.shutdown_grace_seconds
        self.claims.stop()
        self.slots.wake()

    def stalled(self) -> dict[str, str]:
        """What makes no progress, as ``Loops.stalled``."""
        finishing = self._finisher.stalled(self._settings.lease_seconds)
        return {**self.claims.stalled(), **self.beats.stalled(), **finishing}

    def _show_health(self, metrics: Metrics) -> None:
        """What nobody's transition tells: the event loop, slots, connections."""
        Pulse(self.beats, metrics)
        metrics.slots.set(self._settings.worker_concurrency)
        metrics.slots_free.set_function(lambda: self.slots.free)
        metrics.watch_pool("claim", self._claiming.connections_used, 1)
        metrics.watch_pool("finish", self._finishing.connections_used, 1)
        metrics.watch_pool("heartbeat", self._beating.connections_used, 1)
        transactions = self._settings.transaction_connections
        metrics.watch_pool("transactions", lambda: connections_used(self._engine), transactions)

    # Staying alive

    async def _beat_turn(self) -> None:
        """Renews the lease and compares what the database says is ours with what runs here."""
        sent = time.monotonic()
        known = self.slots.known
        claims = self._intake.claims_answered
        owned = await self._beating.heartbeat(self.id)
        if owned is None:
            self._die()
            return
        self._lease.renew(sent)
        self._compare(known, owned, claims)
        self._telling.beat(time.monotonic() - sent)
        await self.beats.sleep(self._settings.heartbeat_seconds - (time.monotonic() - sent))

    def _compare(self, known: set[Key], owned: Sequence[Owned], claims: int) -> None:
        here = {(task.task_id, task.epoch): task for task in owned}
        for key in sorted(known - here.keys()):
            self.slots.lost(key)
        for key, task in here.items():
            attempt = self.slots.attempts.get(key)
            if attempt is not None and task.cancel_requested:
                attempt.stop(StopReason.CANCEL_REQUESTED)
            elif attempt is None and key not in known and claims == self._intake.claims_sent:
                self._log.warning(
                    "Releasing an attempt recorded for this worker that does not run here",
                    event_name=EventName.UNKNOWN_ATTEMPT_RELEASED,
                    task_id=str(key[0]),
                )
                end = Failure(*key, Reason.HANDED_BACK)
                self.slots.hand_back(task, end, self._telling.found(task))

    def _die(self) -> None:
        """An incarnation marked dead is dead for ever: nothing it writes would be accepted."""
        self._log.error(
            "This incarnation was marked dead; stopping its handlers",
            event_name=EventName.INCARNATION_DEAD,
        )
        self._lease.lose()
        self.slots.stop(StopReason.LEASE_LOST)
        self.beats.stop()
        self.stop()

    # Beginning and end

    async def _register(self) -> bool:
        """Begins this incarnation; False if ``stop`` came first."""
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
        """Grace for handlers, then hand the rest back, then let every end be answered."""
        if await self._ended_within(self._grace_left()):
            self._log.info(
                "All handlers ended within the grace period", event_name=EventName.HANDLERS_ENDED
            )
        elif not self._lease.dead.is_set():
            self._log.info(
                "Grace period is over; releasing the remaining attempts",
                event_name=EventName.ATTEMPTS_RELEASED,
                attempts=len(self.slots.attempts),
            )
            self.slots.stop(StopReason.SHUTTING_DOWN)
            await self._ended_within(self._settings.statement_timeout_seconds)
        if not self._lease.dead.is_set():
            self._finisher.stop()
            async with asyncio.timeout(self._settings.statement_timeout_seconds):
                await finishing

    async def _ended_within(self, seconds: float) -> bool:
        """Whether every attempt was settled within ``seconds``; looks no longer when dead."""
        await self.slots.wait(lambda: not self.slots.attempts or self._lease.dead.is_set(), seconds)
        return not self.slots.attempts

    async def _close(self) -> None:
        await self.slots.close()
        for store in (self._claiming, self._finishing, self._beating):
            await store.close()
        await self._engine.dispose()
        await self._queue.close()
        await self._registry.close()
