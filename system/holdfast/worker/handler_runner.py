"""Run handlers: coroutines on the event loop, plain functions in threads."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

from holdfast.handlers.cancellation import Cancellation
from holdfast.handlers.commit import Commit
from holdfast.handlers.context import Context
from holdfast.handlers.registry import Registry
from holdfast.handlers.time_limit import TimeLimit
from holdfast.handlers.transactions import Transactions
from holdfast.instrumentation.attempt_span import AttemptSpan
from holdfast.model.claim import Failure, Grant, Success
from holdfast.runtime.turns import Turns
from holdfast.settings import Settings
from holdfast.worker.attempt import RunningAttempt


class HandlerRunner:
    """Runs the handlers of grants; call ``close`` after the last attempt has started."""

    def __init__(
        self, settings: Settings, registry: Registry, transactions: Transactions, turns: Turns
    ) -> None:
        """``turns``: all attempts of the worker share them."""
        self._registry = registry
        self._transactions = transactions
        self._turns = turns
        self._result_bytes_max = settings.result_bytes_max
        # Later, a scheduler might reclaim the attempt for its age before its time is over.
        self._late_seconds_max = settings.timeout_grace_seconds
        self._threads = ThreadPoolExecutor(settings.worker_concurrency, "handler")
        self._jitter = random.Random()

    def prepare(
        self, grant: Grant, span: AttemptSpan | None, claimed: float
    ) -> RunningAttempt | None:
        """Return the attempt with its context; None if the task's name has no handler.

        It was claimed at ``claimed`` or shortly after, by the event loop's clock.
        """
        handler = self._registry.get(grant.name)
        if handler is None:
            return None
        cancellation, commit = Cancellation(), Commit(grant, span)
        clock = asyncio.get_running_loop().time
        limit = TimeLimit(grant.timeout_seconds, clock=clock, claimed=claimed)
        context = Context(
            grant,
            limit=limit,
            cancellation=cancellation,
            commit=commit,
            open_transaction=self._transactions.open if handler.is_async else None,
        )
        return RunningAttempt(grant, handler, context, cancellation, commit, limit)

    async def run(self, attempt: RunningAttempt) -> Success | Failure | None:
        """Run the handler; return the end to write, or None if none may be written any more."""
        return await attempt.run(
            self._threads,
            self._turns,
            uniform=self.uniform(),
            result_bytes_max=self._result_bytes_max,
            late_seconds_max=self._late_seconds_max,
        )

    def uniform(self) -> float:
        """Return a random number in [0, 1), for jitter."""
        return self._jitter.random()

    def close(self) -> None:
        """Accept no further attempts; running threads cannot be stopped and are abandoned."""
        self._threads.shutdown(wait=False, cancel_futures=True)
