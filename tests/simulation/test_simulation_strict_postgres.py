"""Conditions of the simulated Postgres: a statement timeout, a serializable default."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator

import asyncpg
import pytest
from simulation_postgres import Link, World, run

from chaos.simulation.environment.shared_servers import SharedServers
from chaos.simulation.postgres import SharedPostgres
from holdfast.model.ids import new_id
from holdfast.model.task import NewTask
from holdfast.settings import Settings
from holdfast.store.store import Store


@pytest.fixture(scope="module")
def real(simulation_servers: SharedServers) -> Iterator[SharedPostgres]:
    postgres = simulation_servers.postgres
    postgres.reset()
    postgres.control.rows("CREATE TABLE pairs (id int PRIMARY KEY, n int NOT NULL, who text)")
    yield postgres
    postgres.reset()
    postgres.control.rows("DROP TABLE pairs")


def test_statement_that_waits_too_long_is_cancelled(real: SharedPostgres) -> None:
    async def course(world: World) -> None:
        world.postgres.statement_timeout_seconds = 0.5
        await world.sql("TRUNCATE pairs")
        await world.sql("INSERT INTO pairs VALUES (1, 0, '')")

        async def hold(connection: Link) -> None:
            async with connection.transaction():
                await connection.execute("UPDATE pairs SET n = n + 1 WHERE id = 1")
                await asyncio.sleep(2)

        async def write(connection: Link) -> None:
            await asyncio.sleep(0.1)
            began = world.loop.time()
            with pytest.raises(asyncpg.QueryCanceledError, match="due to statement timeout"):
                await connection.execute("UPDATE pairs SET n = n + 1 WHERE id = 1")
            world.said.append(world.loop.time() - began)
            # A request of the user is told from it, and the connection stays usable.
            with pytest.raises(TimeoutError):
                await connection.execute("UPDATE pairs SET n = n + 1 WHERE id = 1", timeout=0.2)
            await asyncio.sleep(2)
            await connection.execute("UPDATE pairs SET n = n + 1 WHERE id = 1")

        await world.all(world.client("holder", hold), world.client("writer", write))
        world.said.append((await world.sql("SELECT n FROM pairs"))[0]["n"])

    waited, n = run(real, 1, course).said
    assert waited == pytest.approx(0.5, abs=0.01)
    assert n == 2


def test_rows_of_queued_tasks_are_locked_until_they_are_unlocked(real: SharedPostgres) -> None:
    touch = "UPDATE holdfast.tasks SET seq = seq WHERE state = $1"

    async def course(world: World) -> None:
        world.postgres.statement_timeout_seconds = 0.5
        settings = Settings(database_url=world.postgres.url())
        store = Store(settings, connections=1, application_name="test")
        await store.submit([NewTask(new_id(), "noop", b"{}") for _ in range(3)], "test")
        assert world.postgres.lock_rows() == 0, "no task is QUEUED yet"
        await store.dispatch(2, "test")
        await store.close()
        assert world.postgres.lock_rows() == 2

        async def write(connection: Link) -> None:
            assert await connection.execute(touch, "SCHEDULED") == "UPDATE 1"
            for _ in range(2):
                with pytest.raises(asyncpg.QueryCanceledError):
                    await connection.execute(touch, "QUEUED")
            world.loop.call_later(0.2, lambda: world.said.append(world.postgres.unlock_rows()))
            began = world.loop.time()
            assert await connection.execute(touch, "QUEUED") == "UPDATE 2"
            world.said.append(world.loop.time() - began)

        await world.all(world.client("writer", write))
        assert world.postgres.unlock_rows() == 0, "they are unlocked"

    first = run(real, 1, course)
    assert first.said == [3, pytest.approx(0.2, abs=0.01)]
    assert run(real, 1, course).digest == first.digest


@pytest.mark.parametrize("fault", ["crash", "stop"])
def test_end_of_the_server_unlocks_rows(real: SharedPostgres, fault: str) -> None:
    async def course(world: World) -> None:
        world.postgres.lock_rows()
        getattr(world.postgres, fault)()
        world.postgres.start()
        await asyncio.sleep(0.001)
        assert world.postgres.unlock_rows() == 0
        assert await world.sql("SELECT count(*) FROM holdfast.tasks")

    run(real, 1, course)


async def _write_skew(world: World) -> None:
    """Two transactions read what the other one writes, twice; all commits are held."""
    await world.sql("TRUNCATE pairs")
    await world.sql("INSERT INTO pairs VALUES (1, 0, ''), (2, 0, '')")
    skewed = "UPDATE pairs SET n = (SELECT sum(n) + 1 FROM pairs) WHERE id = $1"

    async def write(connection: Link, number: int) -> None:
        for _ in range(4):
            try:
                await connection.execute(skewed, number)
            except asyncpg.SerializationError:
                world.said.append("40001")

    await world.all(
        world.client("one", lambda connection: write(connection, 1)),
        world.client("two", lambda connection: write(connection, 2)),
    )


def test_database_is_serializable_until_the_reset(real: SharedPostgres) -> None:
    def isolated(world: World) -> Awaitable[None]:
        real.isolate("serializable")
        return _write_skew(world)

    said = [run(real, seed, isolated, held_share=1.0).said for seed in range(1, 4)]
    assert any(said), "commits that fail leave the connection usable"
    assert said == [run(real, seed, isolated, held_share=1.0).said for seed in range(1, 4)]
    assert not any(run(real, seed, _write_skew, held_share=1.0).said for seed in range(1, 4))
