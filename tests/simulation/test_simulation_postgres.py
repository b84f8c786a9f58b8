"""Lock waits, held commits and time in the bridge to the real Postgres."""

from __future__ import annotations

import ast
import asyncio
import gc
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from simulation_postgres import Link, World, run

from chaos.simulation.environment.shared_servers import SharedServers
from chaos.simulation.kernel.node import EPOCH
from chaos.simulation.postgres import SharedPostgres

ROOT = Path(__file__).parents[2]
_TABLES = """
    CREATE TABLE pairs (id int PRIMARY KEY, n int NOT NULL, who text NOT NULL);
    CREATE TABLE keys (key text PRIMARY KEY, who text NOT NULL);
    CREATE TABLE plain (at timestamptz DEFAULT clock_timestamp(), who text);
"""


@pytest.fixture(scope="module")
def real(simulation_servers: SharedServers) -> Iterator[SharedPostgres]:
    postgres = simulation_servers.postgres
    postgres.reset()
    postgres.control.rows(_TABLES)
    yield postgres
    postgres.reset()
    postgres.control.rows("DROP TABLE pairs, keys, plain")


def _started(world: World) -> datetime:
    return datetime.fromtimestamp(EPOCH, UTC) + timedelta(seconds=world.loop.time())


# ------------------------------------------------------------------------------ lock waits


async def _writers(world: World) -> None:
    """Four clients write one row while a transaction holds it."""
    await world.sql("INSERT INTO pairs VALUES (1, 0, '')")

    async def hold(connection: Link) -> None:
        async with connection.transaction():
            await connection.execute("UPDATE pairs SET n = n + 1 WHERE id = 1")
            await asyncio.sleep(1.0)

    async def write(connection: Link) -> None:
        await asyncio.sleep(0.5)
        who = asyncio.current_task().get_name()  # type: ignore[union-attr]
        await connection.execute("UPDATE pairs SET n = n + 1, who = who || $1 WHERE id = 1", who)
        world.said.append((who, world.loop.time() > 1.0))

    names = "abcd"
    await world.all(world.client("holder", hold), *(world.client(name, write) for name in names))
    (row,) = await world.sql("SELECT n, who FROM pairs")
    assert row["n"] == 5
    world.said.append(row["who"])


def test_waiting_writers_continue_in_seeded_order(
    real: SharedPostgres,
) -> None:
    worlds = [run(real, seed, _writers) for seed in range(8)]
    for world in worlds:
        assert sorted(world.said[-1]) == list("abcd")
        assert all(waited for _, waited in world.said[:-1])
        assert sum(statement.parked for statement in world.statements) == 4
    assert len({world.said[-1] for world in worlds}) > 3
    again = [run(real, seed, _writers).digest for seed in range(8)]
    assert again == [world.digest for world in worlds]


async def _inserters(world: World) -> None:
    """All wait for one transaction, and all could continue when it ends."""

    async def hold(connection: Link) -> None:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("INSERT INTO keys VALUES ('k', 'holder')")
        await asyncio.sleep(1.0)
        await transaction.rollback()

    async def insert(connection: Link) -> None:
        await asyncio.sleep(0.5)
        who = asyncio.current_task().get_name()  # type: ignore[union-attr]
        sql = "INSERT INTO keys VALUES ('k', $1) ON CONFLICT DO NOTHING RETURNING who"
        world.said.append((who, await connection.fetchval(sql, who)))

    await world.all(
        world.client("holder", hold), *(world.client(name, insert) for name in "abcdef")
    )


def test_seed_draws_the_winner_of_a_unique_key(real: SharedPostgres) -> None:
    winners = []
    for seed in range(8):
        first, second = run(real, seed, _inserters), run(real, seed, _inserters)
        assert first.said == second.said
        assert first.digest == second.digest
        (winner,) = [got for _, got in first.said if got]
        winners.append(winner)
    assert len(set(winners)) > 2


async def _deadlock(world: World) -> None:
    await world.sql("INSERT INTO pairs VALUES (1, 0, ''), (2, 0, '')")

    async def lock(connection: Link, first: int, second: int, pause: float) -> None:
        try:
            async with connection.transaction():
                await connection.execute("UPDATE pairs SET n = n + 1 WHERE id = $1", first)
                await asyncio.sleep(pause)
                await connection.execute("UPDATE pairs SET n = n + 1 WHERE id = $1", second)
        except asyncpg.DeadlockDetectedError as error:
            world.said.append((asyncio.current_task().get_name(), error.detail))  # type: ignore[union-attr]

    await world.all(
        world.client("early", lambda connection: lock(connection, 1, 2, 0.1)),
        world.client("late", lambda connection: lock(connection, 2, 1, 0.2)),
    )
    world.said += [row["n"] for row in await world.sql("SELECT n FROM pairs ORDER BY id")]


def test_deadlock_victim_is_the_last_to_wait(
    real: SharedPostgres,
) -> None:
    for seed in range(4):
        first, second = run(real, seed, _deadlock), run(real, seed, _deadlock)
        victim, *counts = first.said
        assert victim[0] == "late"
        assert "blocked by process N" in victim[1]
        assert counts == [1, 1]
        assert first.digest == second.digest


def test_slow_statement_is_awaited(real: SharedPostgres) -> None:
    async def course(world: World) -> None:
        began = world.loop.time()
        await world.sql("SELECT pg_sleep(0.02)")
        assert world.loop.time() - began < 0.02

    world = run(real, 1, course)
    assert not any(statement.parked for statement in world.statements)


def test_cancelled_call_ends_its_lock_wait_and_keeps_the_connection_usable(
    real: SharedPostgres,
) -> None:
    async def course(world: World) -> None:
        await world.sql("INSERT INTO pairs VALUES (1, 0, '')")

        async def hold(connection: Link) -> None:
            async with connection.transaction():
                await connection.execute("UPDATE pairs SET n = 5")
                await asyncio.sleep(3.0)

        async def give_up(connection: Link) -> None:
            await asyncio.sleep(0.5)
            with pytest.raises(TimeoutError):
                await connection.execute("UPDATE pairs SET n = n + 1", timeout=1.0)
            assert world.loop.time() < 2.0
            assert await connection.fetchval("SELECT n FROM pairs") == 0

        await world.all(world.client("holder", hold), world.client("hasty", give_up))
        assert (await world.sql("SELECT n FROM pairs"))[0]["n"] == 5

    world = run(real, 1, course)
    assert "57014" in [statement.outcome for statement in world.statements]


# ------------------------------------------------------------------------------ held commits


async def _trap(world: World) -> None:
    """Two inserts under READ COMMITTED, neither of which sees the other's row."""

    async def add(connection: Link) -> None:
        await connection.execute(
            "INSERT INTO plain (who) SELECT $1 WHERE NOT EXISTS (SELECT FROM plain)",
            asyncio.current_task().get_name(),  # type: ignore[union-attr]
        )

    await world.all(*(world.client(name, add) for name in "abc"))
    world.said.append(len(await world.sql("SELECT FROM plain")))


def test_single_statements_overlap_only_with_held_commits(real: SharedPostgres) -> None:
    assert {run(real, seed, _trap).said[0] for seed in range(4)} == {1}
    worlds = [run(real, seed, _trap, held_share=1.0) for seed in range(4)]
    assert max(world.said[0] for world in worlds) > 1
    for seed, world in enumerate(worlds):
        assert [s.held for s in world.statements if s.name.startswith("INSERT")] == [True] * 3
        assert run(real, seed, _trap, held_share=1.0).digest == world.digest


def test_held_statement_looks_like_autocommit(real: SharedPostgres) -> None:
    async def course(world: World) -> None:
        async def work(connection: Link) -> None:
            insert = "INSERT INTO keys VALUES ($1, 'x') RETURNING key"
            assert len(await connection.fetch(insert, "a")) == 1
            assert not connection.is_in_transaction()
            with pytest.raises(asyncpg.UniqueViolationError):
                await connection.fetch(insert, "a")
            assert not connection.is_in_transaction()
            await connection.executemany(insert, [("b",), ("c",)])  # not a single statement
            async with connection.transaction():
                await connection.fetch(insert, "d")
            assert await connection.fetchval("SELECT count(*) FROM keys") == 4

        await world.all(world.client("a", work))

    world = run(real, 1, course, held_share=1.0)
    inserts = [s for s in world.statements if s.name == "INSERT INTO keys"]
    assert [(s.outcome, s.held) for s in inserts] == [
        ("INSERT 0 1", True),
        ("23505", True),
        ("INSERT 0 1", False),
        ("INSERT 0 1", False),
        ("INSERT 0 1", False),
    ]


def test_complete_statement_of_a_dead_client_is_committed(real: SharedPostgres) -> None:
    async def course(world: World) -> None:
        async def insert(connection: Link) -> None:
            await connection.execute("INSERT INTO keys VALUES ($1, 'x')", "k")

        node = world.client("a", insert)
        while not world.postgres.holding:
            await asyncio.sleep(0.0001)
        world.loop.kill(node)
        assert await world.sql("SELECT FROM keys") == []
        await asyncio.sleep(1.0)
        assert len(await world.sql("SELECT FROM keys")) == 1

    run(real, 1, course, held_share=1.0)


# ------------------------------------------------------------------------------ time


def test_database_clock_is_virtual_during_a_lock_wait(
    real: SharedPostgres,
) -> None:
    async def course(world: World) -> None:
        (row,) = await world.sql("SELECT clock_timestamp(), now() AS same")
        assert abs(_started(world) - row["clock_timestamp"]) < timedelta(milliseconds=10)
        assert abs(row["same"] - row["clock_timestamp"]) < timedelta(milliseconds=10)
        await world.sql("INSERT INTO pairs VALUES (1, 0, '')")

        async def hold(connection: Link) -> None:
            async with connection.transaction():
                await connection.execute("UPDATE pairs SET n = 1")
                await asyncio.sleep(5.0)

        async def wait(connection: Link) -> None:
            await asyncio.sleep(1.0)
            before = _started(world)
            (row,) = await connection.fetch(
                "WITH h AS MATERIALIZED (SELECT FROM pairs FOR UPDATE)"
                " SELECT clock_timestamp() AS late FROM h"
            )
            assert row["late"] - before > timedelta(seconds=3)

        await world.all(world.client("holder", hold), world.client("waiter", wait))

    run(real, 1, course)


def test_control_real_clock_never_ends_a_virtual_lease(
    real: SharedPostgres,
) -> None:
    async def course(world: World) -> None:
        for schema in ("pg_catalog", "sim"):
            (row,) = await world.sql(f"SELECT {schema}.clock_timestamp() AS began")
            await asyncio.sleep(60.0)
            expired = f"SELECT {schema}.clock_timestamp() > $1::timestamptz + '1 minute' AS expired"
            world.said.append((await world.sql(expired, row["began"]))[0]["expired"])

    assert run(real, 1, course).said == [False, True]


def test_column_defaults_and_random_values_are_virtual(real: SharedPostgres) -> None:
    async def course(world: World) -> None:
        await world.sql("INSERT INTO plain (who) VALUES ('x')")
        (row,) = await world.sql("SELECT at, gen_random_uuid() AS id, random() AS r FROM plain")
        assert abs(_started(world) - row["at"]) < timedelta(milliseconds=10)
        assert 0 <= row["r"] < 1
        world.said.append((row["id"], row["r"]))

    assert run(real, 1, course).said == run(real, 1, course).said


def test_clock_moved_by_the_harness_moves_the_database(real: SharedPostgres) -> None:
    async def course(world: World) -> None:
        node = next(node for node in world.loop.nodes if node.name == "postgres")
        node.clock_offset = -3600.0
        (row,) = await world.sql("SELECT clock_timestamp() AS now")
        assert timedelta(minutes=59) < _started(world) - row["now"] < timedelta(minutes=61)

    run(real, 1, course)


_UNSHADOWED = re.compile(
    r"\b(CURRENT_TIMESTAMP|CURRENT_TIME|CURRENT_DATE|LOCALTIME|LOCALTIMESTAMP)\b"
    r"|pg_catalog\.(clock_timestamp|now|statement_timestamp|transaction_timestamp)"
    r"|\btimeofday\(|'(now|today|tomorrow|yesterday)'|\bpg_(notify|advisory\w*)\(|\bLISTEN\b"
)


def _texts(path: Path) -> Iterator[str]:
    """Return all string literals of a source file except docstrings."""
    tree = ast.parse(path.read_text())
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in documentation:
                yield text


def test_product_sql_reads_only_shadowed_clocks() -> None:
    paths = [*(ROOT / "system").rglob("*.py"), *(ROOT / "chaos" / "tasks").rglob("*.py")]
    # The parser counts its depth, so garbage must not be collected while it runs.
    gc.collect()
    gc.disable()
    try:
        found = _clocks(paths)
    finally:
        gc.enable()
    assert found == set()
    assert _UNSHADOWED.search("SELECT current_timestamp".upper())


def _clocks(paths: list[Path]) -> set[str]:
    return {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in paths
        for text in _texts(path)
        if (match := _UNSHADOWED.search(text))
    }
