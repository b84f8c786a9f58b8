"""Read progress and latencies from the databases, by their clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from loadtest.processes import LoadtestError
from loadtest.stopwatch import STALL_SECONDS, Stopwatch

POLL_SECONDS = 0.25
DRAIN_POLL_SECONDS = 0.05

# Run between store and drain, for Holdfast and for a peer. A bulk-loaded table has no statistics
# until the next autovacuum, and plans without them cost Procrastinate 50 % more (measured).
SETTLE = "VACUUM ANALYZE"
RESET = """
TRUNCATE holdfast.tasks, holdfast.requests, holdfast.task_events, holdfast.effects,
  holdfast.stale_writes"""
CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
FINISHED = "SELECT count(*) FROM holdfast.effects WHERE effect_key >= $1"
WORKERS = """
SELECT count(*) FROM holdfast.workers WHERE dead_at IS NULL
  AND lease_expires_at > clock_timestamp()"""
STATES = "SELECT state, count(*) FROM holdfast.tasks WHERE id >= $1 GROUP BY state ORDER BY state"
LATENCY = """
SELECT count(*) AS count, percentile_cont(0.5) WITHIN GROUP (ORDER BY waited) AS p50,
  percentile_cont(0.99) WITHIN GROUP (ORDER BY waited) AS p99, max(waited) AS max
FROM (
  SELECT extract(epoch FROM e.at - t.due_at)::float8 AS waited
  FROM holdfast.task_events e JOIN holdfast.tasks t ON t.id = e.task_id
    JOIN holdfast.requests r ON r.id = e.task_id
  WHERE e.to_state = 'RUNNING' AND e.attempt = 1 AND e.reason = 'claimed'
    AND (t.due_at > r.created_at) = $1 AND e.task_id >= $2) AS starts"""


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Seconds from due to claimed, over ``count`` tasks."""

    count: int
    p50: float
    p99: float
    max: float


class DatabaseProbe:
    """Queries Holdfast's database for tasks created since ``begin``.

    Task ids are UUIDv7: a range of ids is a range of time, found by the primary key.
    """

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self._since = UUID(int=0)

    async def begin(self) -> None:
        """Exclude all existing tasks from the measurement."""
        milliseconds = await self.connection.fetchval(CLOCK)
        self._since = UUID(int=milliseconds << 80)

    async def reset(self) -> None:
        """Delete every task, so that each round starts from the same state."""
        await self.connection.execute(RESET)

    async def settle(self) -> None:
        """Run VACUUM ANALYZE, to give the planner the statistics of a database in use."""
        await self.connection.execute(SETTLE)

    async def workers_ready(self, count: int, check: Callable[[], None]) -> None:
        """Wait until ``count`` live workers have registered; ``check()`` may raise."""
        await until(count, self._workers, check)

    async def _workers(self) -> int:
        return int(await self.connection.fetchval(WORKERS))

    async def finished(self) -> int:
        """Count the rows of the ledger, one per succeeded task."""
        return int(await self.connection.fetchval(FINISHED, self._since))

    async def latency(self, *, ahead: bool) -> LatencySummary:
        """Return the due-to-start latency of tasks submitted ahead of time, or of the others."""
        row = await self.connection.fetchrow(LATENCY, ahead, self._since)
        if row is None or not row["count"]:
            raise LoadtestError("no task started: latency cannot be measured")
        return LatencySummary(row["count"], row["p50"], row["p99"], row["max"])

    async def check_all_succeeded(self, count: int) -> None:
        """Check that exactly ``count`` tasks exist, each SUCCEEDED with one ledger row.

        Raises:
            LoadtestError: they do not; the figures of the run are invalid.
        """
        states = {
            row["state"]: row["count"] for row in await self.connection.fetch(STATES, self._since)
        }
        effects = await self.finished()
        if states != {"SUCCEEDED": count} or effects != count:
            raise LoadtestError(
                f"{count} tasks submitted, but found {states} and {effects} ledger rows"
            )


async def drained(
    wanted: int, count: Callable[[], Awaitable[int]], check: Callable[[], None]
) -> Stopwatch:
    """Wait until ``count()`` reaches ``wanted``; ``check()`` may raise in between.

    Raises:
        LoadtestError: the count did not change for a minute.
    """
    stopwatch = Stopwatch(wanted)
    loop = asyncio.get_running_loop()
    while not stopwatch.record(loop.time(), await count()):
        check()
        await asyncio.sleep(DRAIN_POLL_SECONDS)
    return stopwatch


async def until(
    wanted: int, count: Callable[[], Awaitable[int]], check: Callable[[], None]
) -> None:
    """Wait until ``count()`` reaches ``wanted``; ``check()`` may raise in between.

    Raises:
        LoadtestError: the count did not change for a minute.
    """
    loop = asyncio.get_running_loop()
    seen, changed_at = -1, loop.time()
    while (now := await count()) < wanted:
        check()
        if now != seen:
            seen, changed_at = now, loop.time()
        elif loop.time() - changed_at > STALL_SECONDS:
            raise LoadtestError(f"no progress for {STALL_SECONDS:.0f} s: {now} of {wanted}")
        await asyncio.sleep(POLL_SECONDS)
