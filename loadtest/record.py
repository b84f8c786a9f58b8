"""Read the outcome of each task of a run from any Holdfast's API, by the server's clock.

``GET /tasks/`` lists by id, newest first, so every page costs the same and reading ends at the
first page older than the run. Filters by state are not used: they scan far on a large table.
``payload.run`` identifies the tasks of the run.
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
# The Date header has no fractions, and the clocks of two API processes may differ.
MARGIN = timedelta(seconds=5)
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


@dataclass(frozen=True, slots=True)
class TaskTimes:
    """One task. Instants are Unix times by the server's clock."""

    id: str
    created: float
    due: float
    """When it could first run: the later of ``created`` and ``run_at``."""
    finished: float | None
    state: str

    @classmethod
    def of(cls, task: dict[str, Any]) -> TaskTimes:
        """Create from a task as the API returns it."""
        created, run_at = _instant(task["created_at"]), _instant(task["run_at"])
        finished = task["finished_at"] and _instant(task["finished_at"])
        return cls(task["id"], created, max(created, run_at), finished or None, task["state"])


@dataclass(frozen=True, slots=True)
class Record:
    """The tasks of a run, oldest first. ``complete``: False if ``tasks_max`` cut it short."""

    tasks: tuple[TaskTimes, ...]
    complete: bool


class Recorder:
    """Reads the tasks of one run from one API."""

    def __init__(self, client: httpx.AsyncClient, run_id: str, tasks_max: int) -> None:
        self._client = client
        self._run_id = run_id
        self._tasks_max = tasks_max
        self._began = datetime.min.replace(tzinfo=UTC)

    async def begin(self) -> None:
        """Record the server's clock: tasks created earlier are not part of the run.

        Raises:
            LoadtestError: the server does not respond, or not as Holdfast.
        """
        response = await self._get({"limit": 1})
        self._began = parsedate_to_datetime(response.headers["date"]) - MARGIN

    async def waiting(self) -> int:
        """Count the run's due and unfinished tasks among the newest PAGE tasks."""
        tasks, _ = await self._page(None)
        return sum(_is_waiting(task, self._clock(tasks)) for task in self._ours(tasks))

    async def read(self) -> Record:
        """Read every task of the run in its current state."""
        found: list[TaskTimes] = []
        cursor: str | None = None
        while True:
            tasks, cursor = await self._page(cursor)
            found += self._ours(tasks)
            oldest = tasks[-1]["created_at"] if tasks else None
            if cursor is None or oldest is None or _datetime(oldest) < self._began:
                return Record(tuple(reversed(found)), complete=True)
            if len(found) >= self._tasks_max:
                return Record(tuple(reversed(found)), complete=False)

    async def read_when_drained(self, seconds: float) -> Record:
        """Read once no task of the run is waiting, or after ``seconds``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            # The newest tasks usually finish last: one page shows when a full read is worthwhile.
            if loop.time() < deadline and await self.waiting():
                await asyncio.sleep(POLL_SECONDS)
                continue
            record = await self.read()
            now = max((task.created for task in record.tasks), default=0.0)
            waiting = any(_is_waiting(task, now) for task in record.tasks)
            if not waiting or loop.time() >= deadline:
                return record
            await asyncio.sleep(POLL_SECONDS)

    async def cancel(self, tasks: Iterable[TaskTimes]) -> None:
        """Cancel tasks that users left behind."""
        for task in tasks:
            await self._client.post(f"/tasks/{task.id}/cancel")

    def _ours(self, tasks: list[dict[str, Any]]) -> list[TaskTimes]:
        return [TaskTimes.of(task) for task in tasks if task["payload"].get("run") == self._run_id]

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
            raise LoadtestError(f"GET /tasks/ failed: {kind} {error}") from error
        if response.status_code != 200:
            raise LoadtestError(
                f"GET /tasks/ returned {response.status_code}: {response.text[:300]}"
            )
        return response


def _is_waiting(task: TaskTimes, now: float) -> bool:
    return task.state not in TERMINAL and task.due <= now


def _datetime(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _instant(text: str) -> float:
    return _datetime(text).timestamp()
