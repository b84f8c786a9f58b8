"""What became of the tasks of one run, read from the API: any Holdfast's, by its own clock.

``GET /tasks/`` lists by id, newest first, so a page costs the same wherever it is, and reading
ends at the first page that is older than the run. Filters by state are left alone on purpose: on
a large table they search far. A run is told from its neighbours by ``payload.run``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import orjson

from loadtest.processes import LoadtestError

PAGE = 1000
POLL_SECONDS = 1.0
# The Date header has no fractions, and two API processes may have two clocks.
MARGIN = timedelta(seconds=5)
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


@dataclass(frozen=True, slots=True)
class Life:
    """One task. Instants are Unix times of the server."""

    id: str
    created: float
    due: float
    """Return when it could first run: once stored, and not before its ``run_at``."""
    finished: float | None
    state: str

    @classmethod
    def of(cls, task: dict[str, Any]) -> Life:
        """Create it from a task of the API."""
        created, run_at = _instant(task["created_at"]), _instant(task["run_at"])
        finished = task["finished_at"] and _instant(task["finished_at"])
        return cls(task["id"], created, max(created, run_at), finished or None, task["state"])


@dataclass(frozen=True, slots=True)
class Record:
    """The tasks of a run, oldest first. ``complete``: the limit of tasks to read was not hit."""

    lives: tuple[Life, ...]
    complete: bool


class Recorder:
    """Reads the tasks of one run from one API."""

    def __init__(self, client: httpx.AsyncClient, run_id: str, tasks_max: int) -> None:
        self._client = client
        self._run_id = run_id
        self._tasks_max = tasks_max
        self._began = datetime.min.replace(tzinfo=UTC)

    async def begin(self) -> None:
        """Note the server's clock: what was created before is no part of the run.

        Raises:
            LoadtestError: it does not answer, or not as Holdfast would.
        """
        response = await self._get({"limit": 1})
        self._began = parsedate_to_datetime(response.headers["date"]) - MARGIN

    async def waiting(self) -> int:
        """How many of the run's newest tasks are due and not ended; PAGE may mean more."""
        tasks, _ = await self._page(None)
        return sum(_is_waiting(life, self._clock(tasks)) for life in self._ours(tasks))

    async def read(self) -> Record:
        """Read every task of the run in its current state."""
        lives: list[Life] = []
        cursor: str | None = None
        while True:
            tasks, cursor = await self._page(cursor)
            lives += self._ours(tasks)
            oldest = tasks[-1]["created_at"] if tasks else None
            if cursor is None or oldest is None or _datetime(oldest) < self._began:
                return Record(tuple(reversed(lives)), complete=True)
            if len(lives) >= self._tasks_max:
                return Record(tuple(reversed(lives)), complete=False)

    async def read_when_drained(self, seconds: float) -> Record:
        """Like ``read``, once no task of the run is open or ``seconds`` have passed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            # The newest tasks mostly end last: one page shows when a full read is worthwhile.
            if loop.time() < deadline and await self.waiting():
                await asyncio.sleep(POLL_SECONDS)
                continue
            record = await self.read()
            now = max((life.created for life in record.lives), default=0.0)
            waiting = any(_is_waiting(life, now) for life in record.lives)
            if not waiting or loop.time() >= deadline:
                return record
            await asyncio.sleep(POLL_SECONDS)

    async def cancel(self, lives: Iterable[Life]) -> None:
        """Cancel the future tasks that users left behind."""
        for life in lives:
            await self._client.post(f"/tasks/{life.id}/cancel")

    def _ours(self, tasks: list[dict[str, Any]]) -> list[Life]:
        return [Life.of(task) for task in tasks if task["payload"].get("run") == self._run_id]

    def _clock(self, tasks: list[dict[str, Any]]) -> float:
        """Return the latest known time of the server."""
        return _instant(tasks[0]["created_at"]) if tasks else 0.0

    async def _page(self, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
        parameters: dict[str, Any] = {"limit": PAGE}
        if cursor is not None:
            parameters["cursor"] = cursor
        page = orjson.loads((await self._get(parameters)).content)
        return page["tasks"], page["next_cursor"]

    async def _get(self, parameters: dict[str, Any]) -> httpx.Response:
        try:
            response = await self._client.get("/tasks/", params=parameters)
        except httpx.HTTPError as error:
            kind = type(error).__name__
            raise LoadtestError(f"GET /tasks/ was not answered: {kind} {error}") from error
        if response.status_code != 200:
            raise LoadtestError(
                f"GET /tasks/ answered {response.status_code}: {response.text[:300]}"
            )
        return response


def _is_waiting(life: Life, now: float) -> bool:
    return life.state not in TERMINAL and life.due <= now


def _datetime(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _instant(text: str) -> float:
    return _datetime(text).timestamp()
