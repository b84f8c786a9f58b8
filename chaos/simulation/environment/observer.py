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

    A fault that waits for an event polls every 20 ms; most polls find nothing changed.
    """

    def __init__(self, postgres: PostgresNode) -> None:
        super().__init__(postgres.url())
        self._heard = 0  # statements of all but the harness
        self._known: dict[Hashable, tuple[int, Any]] = {}
        postgres.listeners.append(self._hear)

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
        now = self._heard  # what is heard while the question is on its way does not count
        heard, answer = self._known.get(question, (-1, None))
        if heard == now:
            known: _Answer = answer
            return known
        fresh = await ask()
        self._known[question] = now, fresh
        return fresh

    def _hear(self, statement: ExecutedStatement) -> None:
        self._heard += statement.client != _HARNESS
