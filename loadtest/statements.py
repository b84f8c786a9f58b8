"""Measure the time Postgres spends in each statement."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from loadtest.stack import LoadtestStack

EXTENSION = "pg_stat_statements"
SAMPLE_SECONDS = 0.01
_WRITES = re.compile(r"\b(?:INSERT INTO|UPDATE|DELETE FROM) (?!SKIP|OF)(\w+)", re.ASCII)
TOP = """
SELECT query, calls, rows, total_exec_time AS milliseconds, wal_bytes::bigint AS wal_bytes,
  shared_blks_dirtied AS dirtied
FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY total_exec_time DESC"""
ACTIVE = """
SELECT query FROM pg_stat_activity
WHERE state = 'active' AND pid <> pg_backend_pid() AND datname = current_database()"""


@dataclass(frozen=True, slots=True)
class StatementCost:
    """One statement in a phase; a sampled one has only ``text`` and ``share``.

    ``share``: of the total execution time. ``milliseconds``: total execution time.
    """

    text: str
    share: float
    calls: int | None = None
    rows: int | None = None
    milliseconds: float | None = None
    wal_bytes: int | None = None

    @property
    def label(self) -> str:
        """Return the written tables in order, then the text: long statements begin alike."""
        written = list(dict.fromkeys(_WRITES.findall(self.text)))
        return f"[{' '.join(written) or 'reads'}] {self.text}"


class StatementCosts:
    """Costs by pg_stat_statements, or, if not ``exact``, by sampling pg_stat_activity.

    Sampling keeps the connection busy: it must not be shared.
    """

    def __init__(self, connection: asyncpg.Connection, *, exact: bool) -> None:
        self.exact = exact
        self._connection = connection
        self._seen: Counter[str] = Counter()
        self._sampler: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Reset the statistics."""
        if self.exact:
            await self._connection.execute("SELECT pg_stat_statements_reset()")
        else:
            self._seen.clear()
            self._sampler = asyncio.create_task(self._sample())

    async def end(self) -> list[StatementCost]:
        """Return the executed statements by cost, without those of the measurement itself."""
        if self.exact:
            rows = await self._connection.fetch(TOP)
            ours = [row for row in rows if not _is_of_the_loadtest(row["query"])]
            total = sum(row["milliseconds"] for row in ours) or 1.0
            return [
                StatementCost(
                    text=_flat(row["query"]),
                    share=row["milliseconds"] / total,
                    calls=row["calls"],
                    rows=row["rows"],
                    milliseconds=row["milliseconds"],
                    wal_bytes=row["wal_bytes"],
                )
                for row in ours
            ]
        await self.stop()
        samples = self._seen.total() or 1
        return [StatementCost(text, seen / samples) for text, seen in self._seen.most_common()]

    async def stop(self) -> None:
        """Stop sampling."""
        if self._sampler is not None:
            self._sampler.cancel()
            await asyncio.gather(self._sampler, return_exceptions=True)
            self._sampler = None

    async def _sample(self) -> None:
        while True:
            rows = await self._connection.fetch(ACTIVE)
            self._seen.update(
                _flat(row["query"]) for row in rows if not _is_of_the_loadtest(row["query"])
            )
            await asyncio.sleep(SAMPLE_SECONDS)


@asynccontextmanager
async def statement_costs(stack: LoadtestStack, *, exact: bool) -> AsyncIterator[StatementCosts]:
    """Open the costs of the stack's database on a dedicated connection."""
    connection = await asyncpg.connect(stack.database_url)
    try:
        statements = StatementCosts(connection, exact=exact)
        try:
            yield statements
        finally:
            await statements.stop()
    finally:
        await connection.close()


async def preload(stack: LoadtestStack) -> bool:
    """Enable pg_stat_statements by a restart; return False if Postgres does not have it."""
    connection = await asyncpg.connect(stack.database_url)
    try:
        available = "SELECT count(*) FROM pg_available_extensions WHERE name = $1"
        if not await connection.fetchval(available, EXTENSION):
            return False
        await connection.execute(f"ALTER SYSTEM SET shared_preload_libraries = '{EXTENSION}'")
        await connection.execute("ALTER SYSTEM SET track_io_timing = on")
    finally:
        await connection.close()
    await stack.restart()
    connection = await asyncpg.connect(stack.database_url)
    try:
        with contextlib.suppress(asyncpg.DuplicateObjectError):
            await connection.execute(f"CREATE EXTENSION {EXTENSION}")
    finally:
        await connection.close()
    return True


def _is_of_the_loadtest(query: str) -> bool:
    """Whether the loadtest itself sent the query."""
    own = r"pg_stat_|FROM holdfast\.effects WHERE effect_key >=|^VACUUM|pg_catalog"
    return bool(re.search(own, query))


def _flat(query: str) -> str:
    """Collapse whitespace."""
    return " ".join(query.split())
