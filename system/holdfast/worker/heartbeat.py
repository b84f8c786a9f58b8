"""The heartbeat of one incarnation: renew its lease, and reconcile its attempts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from uuid import UUID

from holdfast.handlers.cancellation import StopReason
from holdfast.instrumentation.worker import WorkerInstrumentation
from holdfast.model.claim import AttemptKey, Failure, OwnedAttempt
from holdfast.model.lifecycle import Reason
from holdfast.store.store import Store
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.logs import Logger
from holdfast.worker.claimer import Claimer
from holdfast.worker.executor import Executor
from holdfast.worker.lease import Lease


class Heartbeat:
    """Compares the attempts the database records for this worker with those that run here."""

    def __init__(
        self,
        worker_id: UUID,
        store: Store,
        lease: Lease,
        claimer: Claimer,
        executor: Executor,
        telemetry: WorkerInstrumentation,
        log: Logger,
    ) -> None:
        self._worker_id = worker_id
        self._store = store
        self._lease = lease
        self._claimer = claimer
        self._executor = executor
        self._telemetry = telemetry
        self._log = log

    async def send(self) -> bool:
        """Renew the lease and reconcile; return False if this incarnation was marked dead.

        Raises:
            OutcomeUnknown, Unavailable: no reply; the lease is not extended.
        """
        sent = time.monotonic()
        known = self._executor.known
        mark = self._claimer.claim_mark()
        owned = await self._store.heartbeat(self._worker_id, self._executor.begun_until)
        if owned is None:
            return False
        self._lease.renew(sent)
        self._reconcile(known, owned, mark)
        self._telemetry.heartbeat_answered(time.monotonic() - sent)
        return True

    def _reconcile(
        self, known: set[AttemptKey], owned: Sequence[OwnedAttempt], mark: int | None
    ) -> None:
        """Stop attempts that were lost or whose cancellation was requested; release orphans.

        An orphan is recorded for this worker but unknown here, for example after a lost reply.
        ``known`` and the claimer's ``mark`` were taken before the heartbeat was sent.
        """
        listed = {attempt.key: attempt for attempt in owned}
        for key in sorted(known - listed.keys()):
            self._executor.lost(key)
        for key, attempt in listed.items():
            running = self._executor.attempts.get(key)
            if running is not None and attempt.cancel_requested:
                running.stop(StopReason.CANCEL_REQUESTED)
            elif running is None and key not in known and self._claimer.no_claim_since(mark):
                self._log.warning(
                    "Releasing an attempt recorded for this worker that does not run here",
                    event_name=EventName.UNKNOWN_ATTEMPT_RELEASED,
                    task_id=str(key[0]),
                )
                end = Failure(*key, Reason.RELEASED)
                self._executor.release(attempt, end, self._telemetry.found(attempt))
