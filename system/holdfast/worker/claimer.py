"""Claim tasks: read hints for free slots, claim their tasks, start the grants.

A quarantined task (one more loss would make it FAILED) is granted only to an idle worker. Its hint
is held here, unacked: this worker starts nothing else until its slots are idle, then claims the
task. Meanwhile it retries the claim periodically, since another worker may have run the task. Hints
of further quarantined tasks are requeued for other workers.

Nothing is claimed while the lease may have expired: a grant to a dead worker is reclaimed
immediately, and every reclaim counts as a loss of the task (``max_losses`` makes it FAILED).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from holdfast.errors import Unavailable
from holdfast.instrumentation.worker import WorkerInstrumentation
from holdfast.model.claim import Claimed
from holdfast.model.dispatch import Hint
from holdfast.queue.hints import Delivery, HintQueue
from holdfast.runtime.supervision import LoopSupervisor, wait_for_event
from holdfast.settings import Settings
from holdfast.store.resend import Unanswered, send_halving, until_answered
from holdfast.store.store import Store
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.logs import Logger
from holdfast.worker.executor import Executor
from holdfast.worker.lease import Lease

READ_BLOCK_SECONDS = 1.0
_RESEND_SECONDS = 0.2
_CLAIM_MAX = 500


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The shutdown of an incarnation: ``loops`` stop and the grace runs out, or it is dead."""

    loops: LoopSupervisor
    lease: Lease
    grace_left: Callable[[], float]

    @property
    def due(self) -> bool:
        """Whether to stop waiting for a reply from Postgres."""
        return self.lease.dead.is_set() or self.grace_left() <= 0


class Claimer:
    """Reads hints and claims in ``claim_once``; call ``leave`` after the last one."""

    def __init__(
        self,
        settings: Settings,
        worker_id: UUID,
        store: Store,
        queue: HintQueue,
        executor: Executor,
        shutdown: Shutdown,
        telemetry: WorkerInstrumentation,
        log: Logger,
    ) -> None:
        self._settings = settings
        self._worker_id = worker_id
        self._store = store
        self._queue = queue
        self._slots = executor.slots
        self._executor = executor
        self._shutdown = shutdown
        self._telemetry = telemetry
        self._log = log
        self._claims_sent = 0
        self._claims_in_flight = 0
        self.blocked = False  # by dead slots: a quarantined task cannot run here
        self._reread = False
        self._quarantined: Delivery | None = None  # its hint, held until this worker is idle

    def claim_mark(self) -> int | None:
        """Return a mark to pass to ``no_claim_since``; None while a claim is in flight."""
        return None if self._claims_in_flight else self._claims_sent

    def no_claim_since(self, mark: int | None) -> bool:
        """Whether no claim was in flight when ``mark`` was taken, and none was sent since.

        Only then can an attempt that is unknown here, but listed by a heartbeat sent after the
        mark, not be a grant whose reply is still in flight.
        """
        return mark == self._claims_sent

    async def claim_once(self) -> None:
        """Wait for free slots, read hints and claim; or claim the held quarantined task."""
        # A failed iteration may have read hints, or claimed without acking: read those again.
        reread, self._reread = self._reread, True
        if self._quarantined is not None:
            await self._claim_quarantined(self._quarantined)
        elif await self._free_slots() >= len(self._settings.queues):
            reread = await self._read_and_take(pending=reread) and reread
        self._reread = reread

    async def leave(self) -> None:
        """Requeue the held hint of a quarantined task, if any."""
        if self._quarantined is None or self._shutdown.lease.dead.is_set():
            return  # a scheduler drains the consumer of a dead worker
        try:
            await self._queue.requeue([self._quarantined])
        except Unavailable as error:
            self._log.warning(
                "Hint could not be requeued; it will be republished at its deadline",
                event_name=EventName.HINT_NOT_REQUEUED,
                error=error,
            )

    async def _read_and_take(self, *, pending: bool) -> bool:
        """Read hints and claim their tasks; return whether there were any hints."""
        deliveries = await self._queue.read(
            self._worker_id,
            self._settings.queues,
            min(self._slots.free, _CLAIM_MAX),
            block_seconds=READ_BLOCK_SECONDS,
            pending=pending,
        )
        if deliveries and self._shutdown.loops.stopping:
            await self._queue.requeue(deliveries)
        elif deliveries:
            await self._take(deliveries)
        return bool(deliveries)

    async def _free_slots(self) -> int:
        """Wait up to the read timeout for one free slot per queue; return the free slots."""
        least = len(self._settings.queues)
        await self._slots.wait(
            lambda: self._slots.free >= least or self._shutdown.loops.stopping, READ_BLOCK_SECONDS
        )
        return self._slots.free

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        """Claim the tasks and start the grants, as often as the sizes of the payloads require."""
        while deliveries:
            deliveries = await self._take_some(deliveries)
            if deliveries and self._shutdown.loops.stopping:
                await self._queue.requeue(deliveries)
                return

    async def _take_some(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Claim the tasks, start the grants; return the hints to claim immediately, if any."""
        hints = [delivery.hint for delivery in deliveries if delivery.hint]
        claimed, sent = await self._claim(hints) if hints else (Claimed(), 0.0)
        if claimed is None:
            return ()  # never acked: a scheduler drains these hints for other workers
        batches = {hint.task_id: hint.batch_traceparent for hint in hints}
        if self._shutdown.lease.dead.is_set():
            for grant in claimed.grants:
                self._telemetry.dropped(grant, batches.get(grant.task_id))
            return ()
        deferred: list[Delivery] = []
        remaining: list[Delivery] = []
        settled: list[Delivery] = []
        for delivery in deliveries:
            task_id = delivery.hint and delivery.hint.task_id
            waits, fits_later = task_id in claimed.deferred, task_id in claimed.remaining
            (deferred if waits else remaining if fits_later else settled).append(delivery)
        self._telemetry.not_granted(len(settled) - len(claimed.grants))
        for grant in claimed.grants:
            self._executor.begin(
                grant,
                sent - grant.running_seconds,
                batch_traceparent=batches.get(grant.task_id),
                stopping=self._shutdown.loops.stopping,
            )
        if not remaining:
            held = deferred[:1] if not self._slots.exclusive else []
            self._hold(held[0] if held else None)
            await self._queue.requeue(deferred[len(held) :])
        await self._queue.ack(settled)
        return [*remaining, *deferred] if remaining else ()

    async def _claim(self, hints: Sequence[Hint]) -> tuple[Claimed | None, float]:
        """Resend the claim with the same token until it is answered, only while the lease holds.

        Returns the answer and when the answered claim was sent, by the event loop's clock. The
        answer is None if the worker is dead or the shutdown's grace ran out.
        """
        token, exclusive = uuid4(), self._slots.idle
        clock = asyncio.get_running_loop().time
        shutdown = self._shutdown

        async def claim(some: Sequence[Hint]) -> list[Claimed]:
            return [await self._store.claim(some, self._worker_id, token, exclusive=exclusive)]

        async def send() -> tuple[Claimed | None, float]:
            while not shutdown.due:
                if shutdown.lease.held:
                    sent = clock()
                    claimed = Claimed.merged(await send_halving(hints, claim))
                    return claimed, sent
                await shutdown.lease.wait(_RESEND_SECONDS)
            return None, 0.0

        async def again(error: Unanswered) -> bool:
            self._log.warning(
                "Claim got no reply; resending it",
                event_name=EventName.CLAIM_RESENT,
                hints=len(hints),
                error=error,
            )
            await wait_for_event(shutdown.lease.dead, _RESEND_SECONDS)
            return True

        self._claims_sent += 1
        self._claims_in_flight += 1
        try:
            claimed, sent = await until_answered(send, again)
        finally:
            self._claims_in_flight -= 1
        if claimed is not None and claimed.again:
            self._log.warning(
                "Claim of unknown outcome was already committed",
                event_name=EventName.CLAIM_ALREADY_COMMITTED,
                grants=claimed.again,
            )
        return claimed, sent

    # Quarantined tasks

    def _hold(self, delivery: Delivery | None) -> None:
        if delivery is not None and delivery != self._quarantined and delivery.hint:
            self._log.info(
                "Quarantined task waits for exclusive use of this worker",
                event_name=EventName.QUARANTINED_TASK_WAITING,
                task_id=str(delivery.hint.task_id),
            )
        self._quarantined = delivery

    async def _claim_quarantined(self, delivery: Delivery) -> None:
        """Claim the held task once idle; else check whether another worker has run it."""
        loops = self._shutdown.loops
        idle = await self._slots.wait(
            lambda: self._slots.idle or loops.stopping, READ_BLOCK_SECONDS
        )
        if loops.stopping:
            return
        await self._take([delivery])
        if self._quarantined is None:
            return
        if self._slots.only_dead:  # this worker will never be idle again
            self.blocked = True
        elif self._slots.stuck:  # a handler that ignores its cancellation would block this worker
            self._log.warning(
                "Running attempts do not end; leaving the quarantined task to other workers",
                event_name=EventName.QUARANTINED_TASK_SKIPPED,
            )
            self._quarantined = None
            await self._queue.ack([delivery])  # republished at its deadline
        elif idle:  # the database records another attempt here; a heartbeat will release it
            await loops.sleep(_RESEND_SECONDS)
