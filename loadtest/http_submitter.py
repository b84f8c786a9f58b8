"""Submit over HTTP: as fast as possible, or at a steady rate independent of the responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson

from loadtest.inserts import payload_filler
from loadtest.processes import LoadtestError

BATCH = 500
IN_FLIGHT = 4
TICK_SECONDS = 0.02
AHEAD = timedelta(seconds=3)


@dataclass(frozen=True, slots=True)
class SubmittedTasks:
    """What is submitted: ``payload`` is part of each task, beside its number."""

    name: str = "echo"
    payload: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def sized(cls, payload_bytes: int, name: str = "echo") -> SubmittedTasks:
        """Return tasks with payloads of about ``payload_bytes`` (at least that of a number)."""
        return cls(name, {"filler": payload_filler(payload_bytes)})

    def body(self, number: int, run_at: datetime | None = None) -> dict[str, Any]:
        """Return the body of one task."""
        task: dict[str, Any] = {"name": self.name, "payload": {"number": number, **self.payload}}
        if run_at is not None:
            task["run_at"] = run_at.isoformat()
        return task


@asynccontextmanager
async def _task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Open a TaskGroup that raises the first LoadtestError of its tasks unwrapped."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as group_error:
        failures = group_error.subgroup(LoadtestError)
        if failures is None:
            raise
        raise failures.exceptions[0] from None


class HttpSubmitter:
    """Client of one API; a response other than "stored" aborts the measurement."""

    def __init__(self, client: httpx.AsyncClient, workload: SubmittedTasks | None = None) -> None:
        """``workload``: no-op tasks by default."""
        self._client = client
        self.workload = workload or SubmittedTasks()

    async def flood(self, count: int) -> float:
        """Submit ``count`` tasks in batches of 500, four requests at a time.

        Returns the seconds from the first request to the last response.
        """
        batches = iter(
            [self.workload.body(number) for number in range(first, min(first + BATCH, count))]
            for first in range(0, count, BATCH)
        )

        async def lane() -> None:
            for batch in batches:
                await self.send(batch)

        loop = asyncio.get_running_loop()
        started = loop.time()
        async with _task_group() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(lane())
        return loop.time() - started

    async def steady(self, rate: int, seconds: float) -> tuple[int, float]:
        """Submit ``rate`` tasks per second; every other request is due three seconds ahead.

        Each request is sent on schedule, whether or not earlier ones were answered. Returns the
        number of tasks sent and the largest delay behind schedule in seconds.
        """
        loop = asyncio.get_running_loop()
        size = max(1, round(rate * TICK_SECONDS))
        ticks = round(rate * seconds / size)
        started = loop.time()
        late = 0.0
        async with _task_group() as group:
            for tick in range(ticks):
                due = started + tick * size / rate
                await asyncio.sleep(due - loop.time())
                late = max(late, loop.time() - due)
                run_at = datetime.now(UTC) + AHEAD if tick % 2 else None
                batch = [self.workload.body(tick * size + n, run_at) for n in range(size)]
                group.create_task(self.send(batch))
        return ticks * size, late

    async def send(self, batch: Sequence[dict[str, Any]]) -> None:
        """POST one batch.

        Raises:
            LoadtestError: no response arrived, or a task was not stored.
        """
        body = orjson.dumps({"tasks": batch})
        headers = {"Content-Type": "application/json"}
        try:
            response = await self._client.post("/tasks/batch", content=body, headers=headers)
        except httpx.HTTPError as error:
            kind = type(error).__name__
            raise LoadtestError(f"POST /tasks/batch failed: {kind} {error}") from error
        if response.status_code != 200:
            raise LoadtestError(
                f"POST /tasks/batch returned {response.status_code}: {response.text[:500]}"
            )
        results = orjson.loads(response.content)["results"]
        refused = [result for result in results if result["status"] != 201]
        if refused or len(results) != len(batch):
            raise LoadtestError(f"{len(refused)} of {len(batch)} tasks not stored: {refused[:1]}")
