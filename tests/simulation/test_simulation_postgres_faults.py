"""Faults of the real Postgres, and of clients, seen from a simulated run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from simulation_postgres import Link, World, run

from chaos.simulation.environment.shared_servers import SharedServers
from chaos.simulation.postgres import SharedPostgres
from chaos.simulation.postgres.names import Names
from holdfast.devstack.reaper import Reaper
from holdfast.errors import OutcomeUnknown, Unavailable
from holdfast.model.claim import Announcement
from holdfast.model.ids import new_id
from holdfast.model.task import NewTask, TaskFilter
from holdfast.settings import Settings
from holdfast.store import transitions
from holdfast.store.database import Database
from holdfast.store.statements import statements
from holdfast.store.store import Store

_CUT = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@pytest.fixture(scope="module")
def real(simulation_servers: SharedServers) -> Iterator[SharedPostgres]:
    postgres = simulation_servers.postgres
    postgres.reset()
    postgres.control.rows("CREATE TABLE keys (key text PRIMARY KEY)")
    yield postgres
    postgres.reset()
    postgres.control.rows("DROP TABLE keys")


def _insert(key: str, seconds: float = 0.0) -> Any:
    """Insert a key and commit after some seconds."""

    async def insert(connection: Link) -> None:
        async with connection.transaction():
            await connection.execute("INSERT INTO keys VALUES ($1)", key)
            await asyncio.sleep(seconds)

    return insert


async def _keys(world: World) -> list[str]:
    return [row["key"] for row in await world.sql("SELECT key FROM keys ORDER BY key")]


# ------------------------------------------------------------------------------ clients


def test_killed_client_is_rolled_back_and_its_waiter_continues(real: SharedPostgres) -> None:
    async def course(world: World) -> None:
        victim = world.client("victim", _insert("k", 100.0))
        await asyncio.sleep(0.5)
        waiter = world.client("waiter", _insert("k"))
        await asyncio.sleep(0.5)
        world.loop.kill(victim)
        await world.all(waiter)
        assert world.loop.time() < 2.0
        assert await _keys(world) == ["k"]

    assert run(real, 1, course).digest == run(real, 1, course).digest


@pytest.mark.parametrize(("hold", "expected"), [(0.6, ["a", "b"]), (20.0, ["a"])])
def test_statement_of_a_killed_client_waits_until_postgres_checks(
    real: SharedPostgres, hold: float, expected: list[str]
) -> None:
    async def course(world: World) -> None:
        async def insert_both(connection: Link) -> None:
            await connection.execute(
                "INSERT INTO keys VALUES ('b'), ($1) ON CONFLICT DO NOTHING", "a"
            )

        holder = world.client("holder", _insert("a", hold))
        await asyncio.sleep(0.5)
        victim = world.client("victim", insert_both)
        await asyncio.sleep(0.05)
        world.loop.kill(victim)
        await world.all(holder)
        await asyncio.sleep(0.1)
        assert await _keys(world) == expected

    run(real, 1, course)


def test_idle_transaction_is_terminated(real: SharedPostgres) -> None:
    async def course(world: World) -> None:
        async def sleep(connection: Link) -> None:
            with pytest.raises(asyncpg.PostgresError) as caught:
                await _insert("k", 70.0)(connection)
            world.said.append(getattr(caught.value, "sqlstate", None))

        client = world.client("sleeper", sleep)
        await asyncio.sleep(65.0)
        assert await _keys(world) == []
        await world.sql("INSERT INTO keys VALUES ('k')")
        await client.wait()

    world = run(real, 1, course)
    assert any("25P03" in entry.what for entry in world.entries)


def test_copy_is_refused(real: SharedPostgres) -> None:
    async def course(world: World) -> None:
        async with world.connected() as connection:
            with pytest.raises(asyncpg.FeatureNotSupportedError, match="NotSimulated: COPY"):
                await connection.copy_records_to_table("keys", records=[("a",)])
            assert await connection.fetchval("SELECT 1") == 1
        assert "COPY" in world.loop.refused.pop()

    run(real, 1, course)


def test_cursors_scripts_and_errors(real: SharedPostgres) -> None:
    async def course(world: World) -> None:
        async with world.connected() as connection:
            await work(connection)
        assert await _keys(world) == ["a", "b"]

    async def work(connection: Link) -> None:
        await connection.execute("INSERT INTO keys VALUES ('a'); INSERT INTO keys VALUES ('b')")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connection.execute("INSERT INTO keys VALUES ('c'); SELECT 1 / 0")
        with pytest.raises(asyncpg.UndefinedTableError):
            await connection.fetch("SELECT * FROM nowhere")
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.executemany("INSERT INTO keys VALUES ($1)", [("d",), ("a",), ("e",)])
        async with connection.transaction():
            rows = [row["n"] async for row in connection.cursor("SELECT generate_series(1, 120) n")]
        assert rows == list(range(1, 121))

    run(real, 1, course)


# ------------------------------------------------------------------------------ the server


async def _cut_clients(world: World, fault: str) -> None:
    """Cut four clients: idle, in a transaction, waiting for its lock, with a held commit."""

    async def idle(connection: Link) -> None:
        await asyncio.sleep(5.0)
        with pytest.raises(_CUT):
            await connection.fetchval("SELECT 1")
        world.said.append("idle")

    async def cut(connection: Link, key: str, seconds: float) -> None:
        with pytest.raises(_CUT):
            await _insert(key, seconds)(connection)
        world.said.append(key)

    await world.sql("INSERT INTO keys VALUES ('before')")
    clients = [
        world.client("idle", idle),
        world.client("open", lambda connection: cut(connection, "k", 3.0)),
    ]
    await asyncio.sleep(0.5)
    clients.append(world.client("waiting", lambda connection: cut(connection, "k", 0.0)))
    await asyncio.sleep(0.5)
    if fault == "terminate_backends":
        assert world.postgres.terminate_backends() == 3
    else:
        pid = world.postgres.pid
        getattr(world.postgres, fault)()
        assert world.postgres.pid is None
        with pytest.raises(_CUT):
            await asyncpg.connect(world.postgres.url())
        world.postgres.start()
        await asyncio.sleep(0.001)
        assert world.postgres.pid not in {None, pid}
    for client in clients:
        await client.wait()
    assert sorted(world.said) == ["idle", "k", "k"]
    assert await _keys(world) == ["before"]


@pytest.mark.parametrize("fault", ["crash", "stop", "terminate_backends"])
def test_server_end_rolls_back_and_disconnects_clients(real: SharedPostgres, fault: str) -> None:
    worlds = [run(real, 3, lambda world: _cut_clients(world, fault)) for _ in range(2)]
    assert worlds[0].digest == worlds[1].digest
    disconnected = [entry.who for entry in worlds[0].entries if entry.what == "connection -> 57P01"]
    assert sorted(disconnected) == ([] if fault == "crash" else ["idle", "open", "waiting"])


def test_crash_loses_a_held_commit(real: SharedPostgres) -> None:
    async def course(world: World) -> None:
        async def insert(connection: Link) -> None:
            with pytest.raises(_CUT):
                await connection.execute("INSERT INTO keys VALUES ($1)", "k")

        client = world.client("a", insert)
        while not world.postgres.holding:
            await asyncio.sleep(0.0001)
        world.postgres.crash()
        world.postgres.start()
        await world.all(client)
        assert await _keys(world) == []

    run(real, 1, course, held_share=1.0)


def test_exhausted_server_refuses_connections(real: SharedPostgres) -> None:
    async def course(world: World) -> None:
        before = await asyncpg.connect(world.postgres.url())
        assert world.postgres.exhaust() > 50
        for _ in range(2):
            with pytest.raises(asyncpg.TooManyConnectionsError):
                await asyncpg.connect(world.postgres.url())
            await before.close()  # freed connections are taken too
            await asyncio.sleep(0.1)
        assert world.postgres.release() > 50
        assert await _keys(world) == []

    assert run(real, 1, course).digest == run(real, 1, course).digest


# ------------------------------------------------------------------------------ the product


def _settings(world: World) -> Settings:
    return Settings(database_url=world.postgres.url(), statement_timeout_seconds=2.0)


async def _life_of_a_task(world: World) -> None:
    """The unmodified store, from submit to finish."""
    store = Store(_settings(world), connections=2, application_name="test")
    worker = new_id()
    await store.register(worker, "w", ["default"], [Announcement("noop", None, None)])
    task = NewTask(id=new_id(), name="noop", payload=b"{}")
    await store.submit([task], "test")
    hints = (await store.dispatch(10, "test")).tasks
    claimed = await store.claim(hints, worker, new_id())
    assert len(claimed.grants) == 1
    assert await store.heartbeat(worker, None) is not None
    assert len((await store.list_tasks(TaskFilter(), 10))[0]) == 1
    await store.close()


@pytest.mark.parametrize("held_share", [0.0, 1.0])
def test_store_runs_unmodified_with_named_statements(
    real: SharedPostgres, held_share: float
) -> None:
    world = run(real, 5, _life_of_a_task, held_share=held_share)
    named = [s.name for s in world.statements if s.client == "harness"]
    known = ["register", "submit", "dispatch", "claim", "heartbeat", "list"]
    assert [name for name in named if name in known] == known
    assert [s.name for s in world.statements if s.held] == (known[:-1] if held_share else [])
    assert run(real, 5, _life_of_a_task, held_share=held_share).digest == world.digest


def test_digest_is_stable_across_servers(real: SharedPostgres, reaper: Reaper) -> None:
    digest = run(real, 5, _life_of_a_task).digest
    with SharedPostgres(reaper) as other:
        assert run(other, 5, _life_of_a_task).digest == digest


def test_outage_is_unavailable_to_the_product(real: SharedPostgres) -> None:
    async def course(world: World) -> None:
        database = Database(_settings(world), connections=1, application_name="test")
        assert await database.rows(transitions.CLOCK)
        world.postgres.crash()
        with pytest.raises(OutcomeUnknown):  # the pool has not noticed yet
            await database.rows(transitions.CLOCK)
        with pytest.raises(Unavailable):
            await database.rows(transitions.CLOCK)
        world.postgres.start()
        await asyncio.sleep(0.001)
        assert await database.rows(transitions.CLOCK)
        await database.close()

    run(real, 1, course)


def test_every_product_statement_has_a_name() -> None:
    names = Names()
    for name, statement in statements().items():
        wire = statement.text.replace(":ids", "$1").replace(":n ", "$2 ")
        assert names.of(wire) == name
    assert names.of("ROLLBACK;") == "ROLLBACK"
    assert names.of("INSERT INTO mine (a) VALUES ($1)") == "INSERT INTO mine"
