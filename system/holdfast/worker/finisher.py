"""Group commit of finished attempts: the ends of many attempts in one statement.

Ends that arrive while a statement is in flight form the next batch, so batches grow with load.
After a batch of several, the next one waits briefly to gather more; a single end is sent
immediately. An end of unknown outcome is resent until it is answered; its guards make that
idempotent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from uuid import UUID

from holdfast.errors import OutcomeUnknown, Unstorable
from holdfast.model.claim import Failure, Success
from holdfast.model.lifecycle import Reason
from holdfast.model.task import Answer
from holdfast.runtime.supervision import cancelled_from_outside
from holdfast.store.resend import Unanswered, send_halving, until_answered
from holdfast.store.store import Store
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.logs import Logger

_BATCH_MAX = 500
_BATCH_CHARACTERS_MAX = 4 << 20  # of results; one end may have more
_GATHER_SECONDS = 0.002
_RESEND_SECONDS = 0.2

End = Success | Failure
Waiting = tuple[End, asyncio.Future[Answer]]
E = TypeVar("E", Success, Failure)


class Finisher:
    """Accepts ends by ``settle``; ``run`` writes them until ``stop``, and then the rest."""

    def __init__(self, store: Store, worker_id: UUID, log: Logger) -> None:
        self._store = store
        self._worker_id = worker_id
        self._log = log
        self._waiting: list[Waiting] = []
        self._arrived = asyncio.Event()
        self._stopping = False
        self._failing: tuple[float, str] | None = None  # since when, and why

    async def settle(self, end: End) -> Answer:
        """Queue an end and wait for the answer: done, or refused with the state found."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((end, future))
        self._arrived.set()
        return await future

    async def run(self) -> None:
        """Write batches of ends; return after ``stop`` once every end was answered."""
        many = False
        while self._waiting or not self._stopping:
            await self._arrived.wait()
            self._arrived.clear()
            if many and len(self._waiting) < _BATCH_MAX and not self._stopping:
                await asyncio.sleep(_GATHER_SECONDS)
            while self._waiting:
                batch = self._take()
                many = len(batch) > 1
                try:
                    await self._send(batch)
                except (Exception, asyncio.CancelledError) as error:
                    if isinstance(error, asyncio.CancelledError) and cancelled_from_outside():
                        raise
                    self._log.exception(
                        "Finish failed unexpectedly",
                        event_name=EventName.FINISH_FAILED,
                        ends=len(batch),
                    )
                    self._note_failure(error)
                    _give_up(batch, error)
                else:
                    self._failing = None

    def stalled(self, seconds: float) -> dict[str, str]:
        """Return why no end was answered within ``seconds``, like ``LoopSupervisor.stalled``."""
        if self._failing is None:
            return {}
        since, why = self._failing
        lasting = asyncio.get_running_loop().time() - since
        return {"finish": f"no progress for {lasting:.1f} s: {why}"} if lasting > seconds else {}

    def _note_failure(self, error: BaseException) -> None:
        since = self._failing[0] if self._failing else asyncio.get_running_loop().time()
        self._failing = (since, str(error) or type(error).__name__)

    def stop(self) -> None:
        """Let ``run`` return once no end is left."""
        self._stopping = True
        self._arrived.set()

    def _take(self) -> list[Waiting]:
        """Return the next batch, at most one end per task since answers are matched by task."""
        batch: dict[UUID, Waiting] = {}
        rest: list[Waiting] = []
        size = 0
        for waiting in self._waiting:
            end = waiting[0]
            full = len(batch) >= _BATCH_MAX or size >= _BATCH_CHARACTERS_MAX
            if full or end.task_id in batch:
                rest.append(waiting)
            else:
                batch[end.task_id] = waiting
                size += len(end.result) if isinstance(end, Success) else 0
        self._waiting = rest
        return list(batch.values())

    async def _send(self, batch: Sequence[Waiting]) -> None:
        successes = [end for end, _ in batch if isinstance(end, Success)]
        failures = [end for end, _ in batch if isinstance(end, Failure)]
        answers, refused = await self._until_answered(
            successes, lambda some: self._store.finish(some, self._worker_id)
        )
        for success, error in refused:
            self._log.error(
                "Result cannot be stored",
                event_name=EventName.RESULT_UNSTORABLE,
                task_id=str(success.task_id),
                error=error,
            )
            failures.append(_not_storable(success))
        more, unstorable = await self._release(failures)
        if unstorable:  # the detail is the only value of a failure that Postgres may refuse
            bare = [Failure(f.task_id, f.epoch, f.reason, f.delay_seconds) for f, _ in unstorable]
            more += (await self._release(bare))[0]
        by_task = {answer.task_id: answer for answer in answers + more}
        for end, future in batch:
            if not future.done():
                future.set_result(by_task[end.task_id])

    async def _release(
        self, failures: list[Failure]
    ) -> tuple[list[Answer], list[tuple[Failure, Unstorable]]]:
        return await self._until_answered(
            failures, lambda some: self._store.release(some, self._worker_id)
        )

    async def _until_answered(
        self, ends: list[E], send: Callable[[Sequence[E]], Awaitable[list[Answer]]]
    ) -> tuple[list[Answer], list[tuple[E, Unstorable]]]:
        """Return the answers, and the ends that Postgres cannot store."""
        if not ends:
            return [], []
        refused: dict[E, Unstorable] = {}
        unknown = False

        async def again(error: Unanswered) -> bool:
            nonlocal unknown
            unknown = unknown or isinstance(error, OutcomeUnknown)
            self._note_failure(error)
            self._log.warning(
                "Finish got no reply; resending it",
                event_name=EventName.FINISH_RESENT,
                ends=len(ends),
                error=error,
            )
            await asyncio.sleep(_RESEND_SECONDS)
            return True

        answers = await until_answered(lambda: send_halving(ends, send, refused.__setitem__), again)
        if unknown and (committed := sum(each.done and not each.made for each in answers)):
            self._log.warning(
                "Finish of unknown outcome was already committed",
                event_name=EventName.FINISH_ALREADY_COMMITTED,
                ends=committed,
            )
        return answers, list(refused.items())


def _give_up(batch: Sequence[Waiting], error: BaseException) -> None:
    """Fail the waiting attempts after a bug; the heartbeat then releases them as orphans."""
    for _, future in batch:
        if not future.done():
            future.set_exception(RuntimeError(f"finish failed: {error!r}"))


def _not_storable(success: Success) -> Failure:
    return Failure(
        success.task_id,
        success.epoch,
        Reason.FAILED,
        detail='{"error": {"type": "Unstorable", "message": "result not storable"}}',
    )
