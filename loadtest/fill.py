"""Fill the tables by SQL with copies of one scheduled and one finished task.

All columns are copied from tasks that Holdfast created, so a new column needs no change here. Only
ids and times differ; the ids of the copies are a day old.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from loadtest.database_probe import until
from loadtest.drain import Bench

CHUNK = 50_000
AHEAD = timedelta(days=30)
# Measured size of a task without its payload (request, events, ledger row and indexes), plus 50 %
# for the WAL.
FUTURE_BYTES = 1_000
FINISHED_BYTES = 2_000

SPECIMEN = "SELECT id FROM holdfast.tasks WHERE state = $1 ORDER BY id DESC LIMIT 1"
ANNOUNCE = """
INSERT INTO holdfast.queue_names (name, announced_at)
SELECT DISTINCT queue, clock_timestamp() FROM holdfast.tasks WHERE state = 'SCHEDULED'
ON CONFLICT (name) DO NOTHING"""
COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = 'holdfast' AND table_name = $1 AND is_generated = 'NEVER'
ORDER BY ordinal_position"""


class Filler:
    """Copies specimens, one chunk per statement."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._connection: asyncpg.Connection = bench.probe.connection

    async def fill(
        self, future: int, finished: int, say: Callable[[str], None], *, queues: int = 0
    ) -> None:
        """Add ``future`` tasks due in a month and ``finished`` SUCCEEDED ones, then vacuum.

        The future ones are spread over as many further ``queues``; 0: all are in the default one.
        """
        bench = self._bench
        await bench.probe.begin()
        workload = bench.submitter.workload
        ahead = datetime.now(UTC) + AHEAD
        await bench.submitter.send([workload.body(0, ahead), workload.body(1)])
        await bench.stack.start("scheduler", 1)
        await until(1, bench.probe.finished, bench.stack.check)
        await bench.stack.stop("scheduler")
        await self._copy(await self._future_sql(queues), "SCHEDULED", future, say)
        await self._connection.execute(ANNOUNCE)
        await self._copy(await self._finished_sql(), "SUCCEEDED", finished, say)
        say("VACUUM ANALYZE")
        await bench.probe.settle()
        await self._connection.execute("CHECKPOINT")

    async def _copy(self, sql: str, state: str, count: int, say: Callable[[str], None]) -> None:
        specimen: UUID = await self._connection.fetchval(SPECIMEN, state)
        for first in range(0, count, CHUNK):
            size = min(CHUNK, count - first)
            await self._connection.execute(sql, specimen, size)
            if (first // CHUNK) % 10 == 9 or first + size == count:
                say(f"{first + size:,} of {count:,} {state} tasks")

    async def _future_sql(self, queues: int) -> str:
        tasks = _list(await self._columns("tasks", {"id", "due_at", "queue"}))
        requests = _list(await self._columns("requests", {"id", "run_at"}))
        queue = f"'queue_' || n % {queues}" if queues else "queue"
        events = _list(await self._columns("task_events", {"task_id"}))
        return f"""
WITH ids AS MATERIALIZED (
  SELECT uuidv7(interval '-1 day') AS new_id, n, n * interval '1 ms' AS later
  FROM generate_series(1, $2::int) AS n
), copied AS (
  INSERT INTO holdfast.tasks (id, due_at, queue, {tasks})
  SELECT new_id, due_at + later, {queue}, {tasks} FROM ids, holdfast.tasks WHERE id = $1
), request_rows AS (
  INSERT INTO holdfast.requests (id, run_at, {requests})
  SELECT new_id, run_at + later, {requests} FROM ids, holdfast.requests WHERE id = $1
)
INSERT INTO holdfast.task_events (task_id, {events})
SELECT new_id, {events} FROM ids, holdfast.task_events WHERE task_id = $1"""

    async def _finished_sql(self) -> str:
        tasks = _list(await self._columns("tasks", {"id"}))
        requests = _list(await self._columns("requests", {"id"}))
        events = _list(await self._columns("task_events", {"task_id"}))
        effects = _list(await self._columns("effects", {"effect_key", "task_id"}))
        return f"""
WITH ids AS MATERIALIZED (
  SELECT uuidv7(interval '-1 day') AS new_id FROM generate_series(1, $2::int)
), copied AS (
  INSERT INTO holdfast.tasks (id, {tasks}) SELECT new_id, {tasks} FROM ids, holdfast.tasks
    WHERE id = $1
), request_rows AS (
  INSERT INTO holdfast.requests (id, {requests})
  SELECT new_id, {requests} FROM ids, holdfast.requests WHERE id = $1
), event_rows AS (
  INSERT INTO holdfast.task_events (task_id, {events})
  SELECT new_id, {events} FROM ids, holdfast.task_events WHERE task_id = $1
)
INSERT INTO holdfast.effects (effect_key, task_id, {effects})
SELECT new_id, new_id, {effects} FROM ids, holdfast.effects WHERE effect_key = $1"""

    async def _columns(self, table: str, without: set[str]) -> list[str]:
        rows = await self._connection.fetch(COLUMNS, table)
        return [row["column_name"] for row in rows if row["column_name"] not in without]


def _list(columns: Sequence[str]) -> str:
    return ", ".join(columns)
