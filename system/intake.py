"""How a worker takes work: reads hints for its free slots, claims them, begins what was granted.

A task on its last life (one more loss would make it FAILED) is granted only to a worker in which
nothing else runs. Such a hint waits here, unacked: this worker begins nothing more, lets what runs
end, and claims it then. Meanwhile it asks again now and then: another worker may have had it. Hints
of further ones go back to the queue, to other workers.

Nothing is claimed while the lease may be over: whatever a dead worker is granted is taken back at
once, and each time that counts as a loss of the task (``max_losses`` makes it FAILED).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from observability.event_names import EventName
from observability.logs import Logger
from system.errors import OutcomeUnknown, Unavailable
from system.lease import Lease
from system.loops import Loops, wait_for_event
from system.queue import Delivery, HintQueue
from system.records import Claimed, Hint
from system.settings import Settings
from system.slots import Slots
from system.store import Store
from system.telling.attempts import Attempts

READ_BLOCK_SECONDS = 1.0
_RESEND_SECONDS = 0.2
_CLAIM_MAX = 500


@dataclass(frozen=True, slots=True)
class Ending:
    """How an incarnation ends: ``loops`` stop, then the grace runs out; or the lease is lost."""

    loops: Loops
    lease: Lease
    grace_left: Callable[[], float]

    @property
    def come(self) -> bool:
        """Whether nothing is to be waited for any more."""
        return self.lease.dead.is_set() or self.grace_left() <= 0


class Intake:
    """One ``turn`` reads and claims once; after the last one ``leave``."""

    def __init__(
        self,
        settings: Settings,
        worker_id: UUID,
        store: Store,
        queue: HintQueue,
        slots: Slots,
        ending: Ending,
        telling: Attempts,
        log: Logger,
    ) -> None:
        self.claims_sent = 0
        self._settings = settings
        self._worker_id = worker_id
        self._store = store
        self._queue = queue
        self._slots = slots
        self._ending = ending
        self._telling = telling
        self._log = log
        self._claims_in_flight = 0
        self._reread = False
        self._waiting: Delivery | None = None  # until nothing else runs here

    @property
    def claims_answered(self) -> int:
        """How many claims were sent, all of them answered; -1 while one is not."""
        return self.claims_sent if not self._claims_in_flight else -1

    async def turn(self) -> None:
        """Waits for slots, reads hints for them, claims; or goes on waiting to be alone."""
        # A turn that fails may have read hints, or claimed and not acked: look at them again.
        reread, self._reread = self._reread, True
        if self._waiting is not None:
            await self._wait_to_be_alone(self._waiting)
        elif await self._free_slots() >= len(self._settings.queues):
            reread = await self._read_and_take(pending=reread) and reread
        self._reread = reread

    async def _read_and_take(self, *, pending: bool) -> bool:
        """Whether there were any hints."""
        deliveries = await self._queue.read(
            self._worker_id,
            self._settings.queues,
            min(self._slots.free, _CLAIM_MAX),
            block_seconds=READ_BLOCK_SECONDS,
            pending=pending,
        )
        if deliveries and self._ending.loops.stopping:
            await self._queue.requeue(deliveries)
        elif deliveries:
            await self._take(deliveries)
        return bool(deliveries)

    async def leave(self) -> None:
        """Gives the hint that waits here, if any, to other workers."""
        if self._waiting is None or self._ending.lease.dead.is_set():
            return  # of a dead worker's hints a scheduler takes care
        try:
            await self._queue.requeue([self._waiting])
        except Unavailable as error:
            self._log.warning(
                "Hint could not be requeued; it will be republished at its deadline",
                event_name=EventName.HINT_NOT_REQUEUED,
                error=error,
            )

    async def _free_slots(self) -> int:
        """Waits a while for as many free slots as there are queues to read."""
        least = len(self._settings.queues)
        await self._slots.wait(
            lambda: self._slots.free >= least or self._ending.loops.stopping, READ_BLOCK_SECONDS
        )
        return self._slots.free

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        hints = [delivery.hint for delivery in deliveries if delivery.hint]
        claimed, sent = await self._claim(hints) if hints else (Claimed(), 0.0)
        if claimed is None:
            return  # never acked: a scheduler gives these hints to the living
        batches = {hint.task_id: hint.traceparent for hint in hints if hint.traceparent}
        if self._ending.lease.dead.is_set():
            for grant in claimed.grants:
                self._telling.dropped(grant, batches.get(grant.task_id))
            return
        later: list[Delivery] = []
        settled: list[Delivery] = []
        for delivery in deliveries:
            deferred = delivery.hint and delivery.hint.task_id in claimed.deferred
            (later if deferred else settled).append(delivery)
        self._telling.not_granted(len(settled) - len(claimed.grants))
        for grant in claimed.grants:
            batch = batches.get(grant.task_id)
            started = sent - grant.running_seconds
            self._slots.begin(grant, started, batch=batch, stopping=self._ending.loops.stopping)
        waiting = later[:1] if not self._slots.alone else []
        self._wait_for(waiting[0] if waiting else None)
        await self._queue.requeue(later[len(waiting) :])
        await self._queue.ack(settled)

    async def _claim(self, hints: Sequence[Hint]) -> tuple[Claimed | None, float]:
        """Sends the claim until it is answered, under a lease and always under the same token.

        With the loop's time of the sending that was answered. None: dead, or stopped without
        Postgres for so long that the grace is over.
        """
        token, alone = uuid4(), self._slots.idle
        clock = asyncio.get_running_loop().time
        self.claims_sent += 1
        self._claims_in_flight += 1
        try:
            while not self._ending.come:
                if not self._ending.lease.held:
                    await self._ending.lease.wait(_RESEND_SECONDS)
                    continue
                sent = clock()
                try:
                    claimed = await self._store.claim(hints, self._worker_id, token, alone=alone)
                except (OutcomeUnknown, Unavailable) as error:
                    self._log.warning(
                        "Claim got no reply; sending it again",
                        event_name=EventName.CLAIM_RESENT,
                        hints=len(hints),
                        error=error,
                    )
                    await wait_for_event(self._ending.lease.dead, _RESEND_SECONDS)
                    continue
                if again := claimed.again:
                    self._log.warning(
                        "Claim of unknown outcome had been committed",
                        event_name=EventName.CLAIM_ALREADY_COMMITTED,
                        grants=again,
                    )
                return claimed, sent
            return None, 0.0
        finally:
            self._claims_in_flight -= 1

    # A task on its last life

    def _wait_for(self, delivery: Delivery | None) -> None:
        if delivery is not None and delivery != self._waiting and delivery.hint:
            self._log.info(
                "Quarantined task waits for exclusive use of this worker",
                event_name=EventName.QUARANTINED_TASK_WAITING,
                task_id=str(delivery.hint.task_id),
            )
        self._waiting = delivery

    async def _wait_to_be_alone(self, delivery: Delivery) -> None:
        """A while at most: then asks whether the task is still to be had."""
        loops = self._ending.loops
        alone = await self._slots.wait(
            lambda: self._slots.idle or loops.stopping, READ_BLOCK_SECONDS
        )
        if loops.stopping:
            return
        await self._take([delivery])
        if self._waiting is None:
            return
        if self._slots.stuck:  # a thread or coroutine that does not stop would block this worker
            self._log.warning(
                "Running attempts do not end; leaving the quarantined task to other workers",
                event_name=EventName.QUARANTINED_TASK_SKIPPED,
            )
            self._waiting = None
            await self._queue.ack([delivery])  # published again at its deadline
        elif alone:  # only by the database's account another attempt is ours: a heartbeat mends it
            await loops.sleep(_RESEND_SECONDS)
