"""Reads what happened from the databases, by their own clocks. Its SQL is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg

from loadtest.cpu import tree_seconds
from loadtest.processes import LoadtestError

POLL_SECONDS = 0.25
STALL_SECONDS = 60.0

# Both sides get it between store and drain. A bulk-loaded table has no statistics until
# autovacuum comes by, and plans without them cost Procrastinate half as much again (measured).
SETTLE = "VACUUM ANALYZE"
RESET = "TRUNCATE tasks, task_events, effects, stale_writes"
FINISHED = "SELECT count(*) FROM effects"
DRAIN = """
SELECT extract(epoch FROM max(at) FILTER (WHERE to_state = 'SUCCEEDED')
                        - min(at) FILTER (WHERE to_state = 'QUEUED'))::float8
FROM task_events"""
STATES = "SELECT state, count(*) FROM tasks GROUP BY state ORDER BY state"
LATENCY = """
SELECT count(*) AS count, percentile_cont(0.5) WITHIN GROUP (ORDER BY waited) AS p50,
  percentile_cont(0.99) WITHIN GROUP (ORDER BY waited) AS p99, max(waited) AS max
FROM (
  SELECT extract(epoch FROM e.at - t.due_at)::float8 AS waited
  FROM task_events e JOIN tasks t ON t.id = e.task_id
  WHERE e.to_state = 'RUNNING' AND e.attempt = 1 AND e.reason = 'claimed'
    AND (t.due_at > t.created_at) = $1) AS starts"""


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from due to claimed, over ``count`` tasks."""

    count: int
    p50: float
    p99: float
    max: float


class Witness:
    """One connection to Holdfast's database."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def reset(self) -> None:
        """Remove every task, so that each round begins alike."""
        await self._connection.execute(RESET)

    async def settle(self) -> None:
        """Give the planner statistics, as a database has that has been running for a while."""
        await self._connection.execute(SETTLE)

    async def finished(self) -> int:
        """Rows in the ledger: tasks that succeeded."""
        return int(await self._connection.fetchval(FINISHED))

    async def drain_seconds(self) -> float:
        """From the first dispatch to the last success."""
        return float(await self._connection.fetchval(DRAIN))

    async def latency(self, *, ahead: bool) -> Latency:
        """Due to start, of tasks submitted ahead of time, or of those due at once."""
        row = await self._connection.fetchrow(LATENCY, ahead)
        if row is None or not row["count"]:
            raise LoadtestError("no task started: there is no latency to tell")
        return Latency(row["count"], row["p50"], row["p99"], row["max"])

    async def check_all_succeeded(self, count: int) -> None:
        """Exactly ``count`` tasks, each SUCCEEDED, each with one ledger row.

        Raises:
            LoadtestError: a figure of such a run would be worth nothing.
        """
        states = {row["state"]: row["count"] for row in await self._connection.fetch(STATES)}
        effects = await self.finished()
        if states != {"SUCCEEDED": count} or effects != count:
            raise LoadtestError(f"{count} submitted, but {states} and {effects} ledger rows")


async def until(
    wanted: int, count: Callable[[], Awaitable[int]], check: Callable[[], None]
) -> None:
    """Wait until ``count()`` reaches ``wanted``; ``check()`` may raise in between.

    Raises:
        LoadtestError: it did not move for a minute.
    """
    loop = asyncio.get_running_loop()
    seen, moved = -1, loop.time()
    while (now := await count()) < wanted:
        check()
        if now != seen:
            seen, moved = now, loop.time()
        elif loop.time() - moved > STALL_SECONDS:
            raise LoadtestError(f"stuck at {now} of {wanted} for {STALL_SECONDS:.0f} s")
        await asyncio.sleep(POLL_SECONDS)


async def until_drained(
    wanted: int, count: Callable[[], Awaitable[int]], check: Callable[[], None]
) -> float:
    """``until``, measuring: milliseconds of processor time per task, over all processes.

    Counted from the first finished tasks on, so that the start of interpreters is no part of it.
    """
    await until(1, count, check)
    before, first = tree_seconds(), await count()
    await until(wanted, count, check)
    # Too small a run may be over at the first look: then there is nothing to divide.
    return (tree_seconds() - before) * 1000 / (wanted - first) if first < wanted else float("nan")
