"""The worker: takes hints, claims, runs handlers, finishes; its heartbeat keeps the lease.

The lease is about liveness only. What a worker may write is decided by the epoch of each claim.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import structlog

from observability.metrics import Metrics
from system.attempts import Attempt
from system.database import create_engine
from system.errors import OutcomeUnknown, Unavailable
from system.finisher import Finisher
from system.handlers.cancellation import Cancellation, StopReason
from system.handlers.context import Context
from system.handlers.registry import Registry
from system.handlers.transaction import Transactions
from system.lifecycle import Reason, State
from system.loops import Loops, wait_for_event
from system.queue import Delivery, HintQueue
from system.records import Answer, Failure, Grant, Hint, Owned, Success
from system.settings import Settings
from system.store import Store

EXIT_DEAD = 3  # this incarnation was marked dead: start a new one

_READ_BLOCK_SECONDS = 1.0
_RESEND_SECONDS = 0.2
_UNKNOWN_NAME_SECONDS = 5.0
_LEFTOVERS_SECONDS = 1.0  # for handlers that were cancelled at the very end
_CLAIM_MAX = 500
_REDIS_CONNECTIONS = 2

Key = tuple[UUID, int]  # task and epoch


class Worker:
    """One incarnation: its ``id`` is fresh and never used again; ``run`` until ``stop``."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        log: structlog.stdlib.BoundLogger,
        metrics: Metrics,
    ) -> None:
        self.id = uuid4()
        self._settings = settings
        self._registry = registry
        self._log = log = log.bind(worker=str(self.id))
        self._metrics = metrics
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
        self._transactions = Transactions(
            self._engine,
            self._finishing,
            self.id,
            result_bytes_max=settings.result_bytes_max,
            commit_timeout_seconds=settings.statement_timeout_seconds,
        )
        self._queue = HintQueue(settings, connections=_REDIS_CONNECTIONS)
        self._finisher = Finisher(self._finishing, self.id, log)
        self._threads = ThreadPoolExecutor(settings.worker_concurrency, "handler")
        self._attempts: dict[Key, Attempt] = {}
        self._running: set[asyncio.Task[object]] = set()
        self._slot_freed = asyncio.Event()
        self._dead = asyncio.Event()
        self._grace_ends = math.inf
        self._claims_sent = 0
        self._claims_in_flight = 0
        self._reread = False
        self._jitter = random.Random()
        stalled = 2 * _READ_BLOCK_SECONDS + settings.statement_timeout_seconds
        self.claims = Loops(log, metrics)
        self.claims.add("claim", self._claim_turn, stalled_seconds=stalled)
        self.beats = Loops(log, metrics)
        self.beats.add("heartbeat", self._beat_turn, stalled_seconds=settings.lease_seconds)

    async def run(self) -> int:
        """Returns an exit code after ``stop`` (0), or when this incarnation is dead (EXIT_DEAD)."""
        if not await self._register():
            await self._close()
            return 0
        self._log.info("worker started", queues=self._settings.queues)
        finishing = asyncio.create_task(self._finisher.run())
        beating = asyncio.create_task(self.beats.run())
        try:
            await self.claims.run()
            await self._wind_down(finishing)
            self.beats.stop()
            await beating
            if self._dead.is_set():
                return EXIT_DEAD
            await self._beating.retire(self.id)
        except (OutcomeUnknown, Unavailable, TimeoutError) as error:
            self._log.warning("stopped without Postgres: the lease will expire", error=str(error))
        finally:
            finishing.cancel()
            beating.cancel()
            await self._close()
            self._log.info("worker stopped")
        return 0

    def stop(self) -> None:
        """Stops taking hints; running handlers get the grace, then are handed back."""
        if not self.claims.stopping:
            now = asyncio.get_running_loop().time()
            self._grace_ends = now + self._settings.shutdown_grace_seconds
        self.claims.stop()
        self._slot_freed.set()

    def stalled(self) -> dict[str, str]:
        """What makes no progress, as ``Loops.stalled``."""
        finishing = self._finisher.stalled(self._settings.lease_seconds)
        return {**self.claims.stalled(), **self.beats.stalled(), **finishing}

    # Taking work

    async def _claim_turn(self) -> None:
        free = await self._free_slots()
        if free < len(self._settings.queues):
            return
        # A turn that fails may have read hints, or claimed and not acked: look at them again.
        reread, self._reread = self._reread, True
        deliveries = await self._queue.read(
            self.id,
            self._settings.queues,
            min(free, _CLAIM_MAX),
            block_seconds=_READ_BLOCK_SECONDS,
            pending=reread,
        )
        if deliveries and self.claims.stopping:
            await self._queue.requeue(deliveries)
        elif deliveries:
            await self._take(deliveries)
        self._reread = reread and bool(deliveries)

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        hints = [delivery.hint for delivery in deliveries if delivery.hint]
        sent = asyncio.get_running_loop().time()
        grants = await self._claim(hints) if hints else []
        if grants is None:
            return  # never acked: a scheduler gives these hints to the living
        self._metrics.claims_refused.inc(len(deliveries) - len(grants))
        for grant in grants:
            self._begin(grant, sent)
        await self._queue.ack(deliveries)

    async def _claim(self, hints: Sequence[Hint]) -> list[Grant] | None:
        """Sends the claim until it is answered, always under the same token.

        None: dead, or stopped without Postgres for so long that the grace is over.
        """
        token = uuid4()
        self._claims_sent += 1
        self._claims_in_flight += 1
        try:
            while True:
                try:
                    grants = await self._claiming.claim(hints, self.id, token)
                except (OutcomeUnknown, Unavailable) as error:
                    if self._dead.is_set() or self._grace_left() <= 0:
                        return None
                    self._log.warning("claim sent again", hints=len(hints), error=str(error))
                    await wait_for_event(self._dead, _RESEND_SECONDS)
                else:
                    return None if self._dead.is_set() else grants
        finally:
            self._claims_in_flight -= 1

    async def _free_slots(self) -> int:
        """Waits a while for as many free slots as there are queues to read."""
        if self._slots() < len(self._settings.queues):
            self._slot_freed.clear()
            await wait_for_event(self._slot_freed, _READ_BLOCK_SECONDS)
        free = self._slots()
        self._metrics.slots_free.set(free)
        return free

    def _slots(self) -> int:
        return self._settings.worker_concurrency - len(self._running)

    # Running it

    def _begin(self, grant: Grant, sent: float) -> None:
        self._metrics.claimed.labels(grant.queue).inc()
        self._metrics.start_seconds.labels(grant.queue).observe(max(0.0, grant.waited_seconds))
        handler = self._registry.get(grant.name)
        if handler is None:
            self._log.warning(
                "no handler for this name", task_id=str(grant.task_id), name=grant.name
            )
            self._keep(self._finisher.settle(_unknown_name(grant)))
            return
        cancellation = Cancellation()
        context = Context(
            grant,
            clock=asyncio.get_running_loop().time,
            started=sent,
            cancellation=cancellation,
            begin=self._transactions.begin if handler.is_async else None,
        )
        attempt = Attempt(grant, handler, context, cancellation)
        self._attempts[grant.task_id, grant.epoch] = attempt
        if self.claims.stopping:  # claimed while stop was on its way: nothing has begun yet
            attempt.stop(StopReason.SHUTTING_DOWN)
        self._keep(self._run(attempt))

    def _keep(self, work: Coroutine[Any, Any, object]) -> None:
        """A slot is taken until ``work`` ends."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._slot_free)

    def _slot_free(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        self._slot_freed.set()
        if not task.cancelled() and (error := task.exception()):
            self._log.error("attempt broke", exc_info=error)

    async def _run(self, attempt: Attempt) -> None:
        grant, loop = attempt.grant, asyncio.get_running_loop()
        started = loop.time()
        try:
            end = await attempt.run(
                self._threads,
                uniform=self._jitter.random(),
                result_bytes_max=self._settings.result_bytes_max,
            )
            self._metrics.run_seconds.labels(grant.name).observe(loop.time() - started)
            answer = await self._finisher.settle(end) if end else None
        finally:
            del self._attempts[grant.task_id, grant.epoch]
        self._tell(grant, attempt.context, end, answer)
        await attempt.released()

    def _tell(
        self, grant: Grant, context: Context, end: Success | Failure | None, answer: Answer | None
    ) -> None:
        """Metrics and one log line for the end of an attempt."""
        if answer is not None and not answer.done:
            self._metrics.stale_writes.inc()
            outcome = "stale"
        elif isinstance(end, Success) or context.finished:
            outcome = str(Reason.SUCCEEDED)
        elif answer is not None and answer.state is State.SUCCEEDED:
            outcome = str(Reason.SUCCEEDED)  # a COMMIT of unknown outcome that stood
        elif isinstance(end, Failure):
            outcome = str(end.reason)
        else:
            self._metrics.leases_lost.inc()
            outcome = "lost"
        self._metrics.finished.labels(grant.name, outcome).inc()
        say = self._log.debug if outcome == "succeeded" else self._log.info
        say(
            "attempt ended",
            task_id=str(grant.task_id),
            name=grant.name,
            attempt=grant.attempt,
            epoch=grant.epoch,
            outcome=outcome,
        )

    # Staying alive

    async def _beat_turn(self) -> None:
        """Renews the lease and compares what the database says is ours with what runs here."""
        loop = asyncio.get_running_loop()
        sent = loop.time()
        known = set(self._attempts)
        claims = self._claims_sent if not self._claims_in_flight else -1
        owned = await self._beating.heartbeat(self.id)
        if owned is None:
            self._die()
            return
        self._compare(known, owned, claims)
        self._metrics.heartbeat_lag.set(loop.time() - sent)
        await self.beats.sleep(self._settings.heartbeat_seconds - (loop.time() - sent))

    def _compare(self, known: set[Key], owned: Sequence[Owned], claims: int) -> None:
        here = {(task.task_id, task.epoch): task for task in owned}
        for key in sorted(known - here.keys()):
            attempt = self._attempts.get(key)
            if attempt is not None:
                attempt.stop(StopReason.LEASE_LOST)
        for key, task in here.items():
            attempt = self._attempts.get(key)
            if attempt is not None and task.cancel_requested:
                attempt.stop(StopReason.CANCEL_REQUESTED)
            elif attempt is None and key not in known and claims == self._claims_sent:
                self._log.warning("handing back a task not known here", task_id=str(key[0]))
                self._keep(self._finisher.settle(Failure(*key, Reason.HANDED_BACK)))

    def _die(self) -> None:
        """An incarnation marked dead is dead for ever: nothing it writes would be accepted."""
        self._log.error("this incarnation was marked dead, stopping its handlers")
        self._dead.set()
        for attempt in self._attempts.values():
            attempt.stop(StopReason.LEASE_LOST)
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
                self._log.warning("cannot register yet", error=str(error))
                await self.claims.sleep(_RESEND_SECONDS)
            else:
                return True
        return False

    def _grace_left(self) -> float:
        return self._grace_ends - asyncio.get_running_loop().time()

    async def _wind_down(self, finishing: asyncio.Task[None]) -> None:
        """Grace for handlers, then hand the rest back, then let every end be answered."""
        if await self._idle_within(self._grace_left()):
            self._log.info("all handlers ended")
        elif not self._dead.is_set():
            self._log.info("handing back", attempts=len(self._attempts))
            for attempt in list(self._attempts.values()):
                attempt.stop(StopReason.SHUTTING_DOWN)
            await self._idle_within(self._settings.statement_timeout_seconds)
        if not self._dead.is_set():
            self._finisher.stop()
            async with asyncio.timeout(self._settings.statement_timeout_seconds):
                await finishing

    async def _idle_within(self, seconds: float) -> bool:
        """Whether every attempt was settled within ``seconds``; False at once when dead."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._attempts and not self._dead.is_set():
            self._slot_freed.clear()
            if loop.time() >= deadline:
                return False
            await wait_for_event(self._slot_freed, min(1.0, deadline - loop.time()))
        return not self._attempts

    async def _close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for task in list(self._running):
            task.cancel()
        # Not gather: a handler that refuses to be cancelled must not keep the process.
        ends = asyncio.get_running_loop().time() + _LEFTOVERS_SECONDS
        while self._running and (left := ends - asyncio.get_running_loop().time()) > 0:
            self._slot_freed.clear()
            await wait_for_event(self._slot_freed, left)
        for store in (self._claiming, self._finishing, self._beating):
            await store.close()
        await self._engine.dispose()
        await self._queue.close()
        await self._registry.close()


def _unknown_name(grant: Grant) -> Failure:
    """Another worker may know the name: nobody's failure, so it is handed back."""
    return Failure(
        grant.task_id,
        grant.epoch,
        Reason.HANDED_BACK,
        _UNKNOWN_NAME_SECONDS,
        '{"error": {"type": "UnknownName", "message": "this worker has no handler for it"}}',
    )
