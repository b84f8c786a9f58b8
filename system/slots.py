"""What runs in this process: each attempt holds a slot until its end is settled.

While a task on its last life runs, no slot is free: whatever kills this process kills it alone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from observability.event_names import EventName
from observability.logs import Logger
from system.attempts import Attempt
from system.finisher import Finisher
from system.handlers.cancellation import Cancellation, StopReason
from system.handlers.context import Context
from system.handlers.registry import Registry
from system.handlers.transaction import Transactions
from system.lifecycle import Reason
from system.loops import wait_for_event
from system.records import Answer, Failure, Grant, Owned, Success
from system.settings import Settings
from system.telling.attempt_trace import AttemptTrace
from system.telling.attempts import Attempts

_LEFTOVERS_SECONDS = 1.0  # for handlers that were cancelled at the very end

Key = tuple[UUID, int]  # task and epoch


class Slots:
    """The attempts of one worker; ``attempts`` are those whose handlers have not ended yet."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        transactions: Transactions,
        finisher: Finisher,
        telling: Attempts,
        log: Logger,
    ) -> None:
        self.attempts: dict[Key, Attempt] = {}
        self._settings = settings
        self._registry = registry
        self._transactions = transactions
        self._finisher = finisher
        self._telling = telling
        self._log = log
        self._threads = ThreadPoolExecutor(settings.worker_concurrency, "handler")
        self._running: dict[asyncio.Task[object], Attempt | None] = {}
        self._freed = asyncio.Event()
        self._alone: Attempt | None = None  # the one on its last life
        self._handing_back: set[Key] = set()  # attempts without a handler, about to be ended
        self._jitter = random.Random()

    @property
    def known(self) -> set[Key]:
        """What the database may well have under this worker's name."""
        return self.attempts.keys() | self._handing_back

    @property
    def free(self) -> int:
        """How many attempts may begin now."""
        return 0 if self.alone else self._settings.worker_concurrency - len(self._running)

    @property
    def alone(self) -> bool:
        """Whether a task on its last life runs here: nothing may begin beside it."""
        return self._alone is not None

    @property
    def idle(self) -> bool:
        """Whether nothing at all runs here, threads of attempts that are over included."""
        return not self._running

    @property
    def stuck(self) -> bool:
        """Whether all that runs here was told to stop: nobody knows when, or if, it obeys."""
        running = self._running.values()
        return bool(running) and all(attempt and attempt.context.cancelled for attempt in running)

    async def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Waits until the condition holds; looks whenever a slot is freed or ``wake`` is called.

        Returns whether it holds after at most ``seconds``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not condition():
            self._freed.clear()
            if loop.time() >= deadline:
                return False
            await wait_for_event(self._freed, min(1.0, deadline - loop.time()))
        return True

    def wake(self) -> None:
        """Makes ``wait`` look at its condition again."""
        self._freed.set()

    def begin(self, grant: Grant, started: float, *, batch: str | None, stopping: bool) -> None:
        """Runs the handler of a grant; its time runs from ``started`` (the loop's clock).

        ``batch``: the traceparent of its hint. ``stopping``: it is told to stop before it begins.
        """
        trace = self._telling.claimed(grant, batch)
        handler = self._registry.get(grant.name)
        if handler is None:
            self._log.warning(
                "No handler is registered for this task name",
                event_name=EventName.HANDLER_MISSING,
                task_id=str(grant.task_id),
                name=grant.name,
            )
            end = _unknown_name(grant, self._settings.unknown_name_seconds)
            self.hand_back(grant, end, trace)
            return
        cancellation = Cancellation()
        context = Context(
            grant,
            clock=asyncio.get_running_loop().time,
            started=started,
            cancellation=cancellation,
            begin=self._transactions.begin if handler.is_async else None,
            trace=trace,
        )
        attempt = Attempt(grant, handler, context, cancellation)
        self.attempts[grant.task_id, grant.epoch] = attempt
        if grant.last_life:
            self._alone = attempt
        if stopping:  # claimed while stop was on its way: nothing has begun yet
            attempt.stop(StopReason.SHUTTING_DOWN)
        self.keep(self._run(attempt), attempt)

    def hand_back(self, attempt: Grant | Owned, end: Failure, trace: AttemptTrace | None) -> None:
        """Ends an attempt that has no handler here; a slot is taken until that is answered."""
        self._handing_back.add((end.task_id, end.epoch))
        self.keep(self._hand_back(attempt, end, trace))

    def keep(self, work: Coroutine[Any, Any, object], attempt: Attempt | None = None) -> None:
        """A slot is taken until ``work`` (of that attempt, if any) ends."""
        task = asyncio.create_task(work)
        self._running[task] = attempt
        task.add_done_callback(self._slot_free)

    def stop(self, reason: StopReason) -> None:
        """Tells every handler to stop."""
        for attempt in list(self.attempts.values()):
            attempt.stop(reason)

    def lost(self, key: Key) -> None:
        """The database says that this attempt is not ours (any more): its handler is to stop."""
        attempt = self.attempts.get(key)
        if attempt is not None:
            attempt.stop(StopReason.LEASE_LOST)
            self._over(attempt)

    async def close(self) -> None:
        """Ends what still runs, as far as it lets itself be ended."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for task in list(self._running):
            task.cancel()
        # Not gather: a handler that refuses to be cancelled must not keep the process.
        await self.wait(lambda: self.idle, _LEFTOVERS_SECONDS)

    def _over(self, attempt: Attempt) -> None:
        """If this attempt ran alone: it is over, others may begin."""
        if self._alone is attempt:
            self._alone = None
            self._freed.set()

    def _slot_free(self, task: asyncio.Task[object]) -> None:
        del self._running[task]
        self._freed.set()
        if not task.cancelled() and (error := task.exception()):
            self._log.error(
                "Attempt ended with an unexpected exception",
                event_name=EventName.ATTEMPT_CRASHED,
                exc_info=error,
            )

    async def _run(self, attempt: Attempt) -> None:
        grant, loop = attempt.grant, asyncio.get_running_loop()
        started = loop.time()
        try:
            end = await attempt.run(
                self._threads,
                uniform=self._jitter.random(),
                result_bytes_max=self._settings.result_bytes_max,
            )
            self._telling.ran(grant, loop.time() - started)
            answer = await self._settle(end, attempt.context.trace) if end else None
        finally:
            del self.attempts[grant.task_id, grant.epoch]
            self._over(attempt)
        self._tell(attempt, end, answer, loop.time() - started)
        await attempt.released()

    async def _settle(self, end: Success | Failure, trace: AttemptTrace | None) -> Answer:
        began = self._telling.now()
        answer = await self._finisher.settle(end)
        if trace is not None:
            trace.finished(began)
        return answer

    async def _hand_back(
        self, attempt: Grant | Owned, end: Failure, trace: AttemptTrace | None
    ) -> None:
        try:
            answer = await self._settle(end, trace)
        finally:
            self._handing_back.discard((end.task_id, end.epoch))
        self._telling.answered(attempt, end, answer, trace)

    def _tell(
        self,
        attempt: Attempt,
        end: Success | Failure | None,
        answer: Answer | None,
        seconds: float,
    ) -> None:
        if end is not None and answer is not None:
            self._telling.answered(attempt.grant, end, answer, attempt.context.trace, seconds)
        elif attempt.context.finished:
            self._telling.succeeded(attempt.grant, attempt.context.trace, seconds)
        else:
            self._telling.lost(attempt.grant)


def _unknown_name(grant: Grant, delay_seconds: float) -> Failure:
    """Another worker may know the name: nobody's failure, so it is handed back."""
    return Failure(
        grant.task_id,
        grant.epoch,
        Reason.HANDED_BACK,
        delay_seconds,
        '{"error": {"type": "UnknownName", "message": "this worker has no handler for it"}}',
    )
