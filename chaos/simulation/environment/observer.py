"""The database observer of a simulated run: it queries only when the answer can have changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from chaos.observers.database import TIMEOUT_SECONDS, Counts, DatabaseObserver
from chaos.scenario.faults import After
from chaos.simulation.postgres import ExecutedStatement, PostgresNode

_HARNESS = "harness"

_Answer = TypeVar("_Answer")


class CachingObserver(DatabaseObserver):
    """Caches answers until another process has run a statement.

    A fault that waits for an event polls every 20 ms, mostly without a change in between.
    """

    def __init__(self, postgres: PostgresNode) -> None:
        super().__init__(postgres.url())
        self._statements = 0  # of all nodes except the harness
        self._known: dict[Hashable, tuple[int, Any]] = {}
        postgres.listeners.append(self._count_statement)

    async def counts(self, timeout_seconds: float = TIMEOUT_SECONDS) -> Counts:
        ask = super().counts
        return await self._answer("counts", lambda: ask(timeout_seconds))

    async def count(self, event: After) -> int:
        ask = super().count
        return await self._answer(event, lambda: ask(event))

    async def running(self, label: str) -> int:
        ask = super().running
        return await self._answer(label, lambda: ask(label))

    async def _answer(self, question: Hashable, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        now = self._statements  # statements during the query do not count
        asked_at, answer = self._known.get(question, (-1, None))
        if asked_at == now:
            known: _Answer = answer
            return known
        fresh = await ask()
        self._known[question] = now, fresh
        return fresh

    def _count_statement(self, statement: ExecutedStatement) -> None:
        self._statements += statement.client != _HARNESS
