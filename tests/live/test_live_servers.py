"""Faults of the servers really strike, and leave nothing; the witness outlasts them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from waiting import until

from chaos.history.records import InFlight
from chaos.live.servers import ServerFault
from chaos.observers.database import DatabaseObserver, DatabaseUnavailable
from holdfast.devstack.host import temporary_directory
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.servers import EmbeddedPostgres, EmbeddedValkey
from holdfast.model.ids import new_id
from holdfast.model.task import NewTask
from holdfast.settings import Settings
from holdfast.store.migrate import upgrade_in_loop
from holdfast.store.store import Store


class Servers:
    """Servers of this module's own: they are killed here."""

    def __init__(self, postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
        self.postgres = postgres
        self.valkey = valkey


@pytest.fixture(scope="module")
def servers(reaper: Reaper) -> Iterator[Servers]:
    directory = temporary_directory("holdfast-test-")
    reaper.own_directory(directory)
    postgres = EmbeddedPostgres(directory / "postgres", reaper=reaper)
    valkey = EmbeddedValkey(directory / "valkey", reaper=reaper)
    with postgres, valkey:
        yield Servers(postgres, valkey)


@pytest.fixture(autouse=True)
async def no_strangers(servers: Servers) -> AsyncIterator[None]:
    """Each test leaves Postgres as free as it found it."""
    yield
    await until_free(servers.postgres)


async def backends(postgres: EmbeddedPostgres) -> int:
    """Connections of clients, other than the one that asks."""
    connection = await asyncpg.connect(postgres.url("postgres"))
    try:
        count = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()
    return int(count)


async def until_free(postgres: EmbeddedPostgres, others: int = 0) -> None:
    async def free() -> bool:
        with suppress(asyncpg.TooManyConnectionsError):
            return await backends(postgres) <= others
        return False

    await until(free)


@pytest.fixture
async def strike(servers: Servers) -> AsyncIterator[ServerFault]:
    witness = DatabaseObserver(servers.postgres.url("postgres"))
    yield ServerFault(servers.postgres, servers.valkey, witness)
    await witness.close()


async def at_once() -> None:
    return


@pytest.mark.parametrize("fault", ["kill", "restart"])
async def test_postgres_is_down_for_a_while_and_comes_back_with_its_data(
    servers: Servers, strike: ServerFault, fault: str
) -> None:
    url = servers.postgres.url("postgres")
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE TABLE kept_{fault} ()")

    async def hold() -> None:
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncpg.connect(url, timeout=2)

    felt, evidence = await strike.run(fault, "postgres", hold)
    assert felt
    assert evidence["pid"] != evidence["replaced_by"]
    connection.terminate()
    again = await asyncpg.connect(url)
    await again.execute(f"SELECT * FROM kept_{fault}")
    await again.close()


async def test_all_backends_but_the_witness_are_terminated(
    servers: Servers, strike: ServerFault
) -> None:
    assert await strike.run("terminate_backends", "postgres", at_once) == (False, {"backends": 0})
    connection = await asyncpg.connect(servers.postgres.url("postgres"))
    felt, evidence = await strike.run("terminate_backends", "postgres", at_once)
    assert (felt, evidence) == (True, {"backends": 1})
    await until(connection.is_closed)
    connection.terminate()


async def test_a_flush_is_felt_if_there_was_something(
    servers: Servers, strike: ServerFault
) -> None:
    async with Redis.from_url(servers.valkey.url()) as redis:
        await redis.flushall()
        assert await strike.run("flush", "redis", at_once) == (False, {"keys": 0})
        await redis.set("a", 1)
        assert await strike.run("flush", "redis", at_once) == (True, {"keys": 1})
        assert await redis.dbsize() == 0


async def test_clients_of_redis_are_disconnected(servers: Servers, strike: ServerFault) -> None:
    async with Redis.from_url(servers.valkey.url(), single_connection_client=True) as redis:
        before = await redis.client_id()
        felt, evidence = await strike.run("client_kill", "redis", at_once)
        assert (felt, evidence) == (True, {"connections": 1})
        try:
            after = await redis.client_id()
        except RedisConnectionError:
            after = None
        assert after != before


async def test_redis_comes_back_empty(servers: Servers, strike: ServerFault) -> None:
    async with Redis.from_url(servers.valkey.url()) as redis:
        await redis.set("a", 1)
    felt, _ = await strike.run("restart_empty", "redis", at_once)
    assert felt
    async with Redis.from_url(servers.valkey.url()) as redis:
        assert await redis.dbsize() == 0


async def test_redis_is_down_as_long_as_the_fault_lasts(
    servers: Servers, strike: ServerFault
) -> None:
    async with Redis.from_url(servers.valkey.url()) as redis:
        await redis.set("a", 1)

    async def hold() -> None:
        async with Redis.from_url(servers.valkey.url()) as redis:
            with pytest.raises(RedisConnectionError):
                await redis.ping()

    felt, evidence = await strike.run("kill", "redis", hold)
    assert felt
    assert evidence["pid"] != evidence["replaced_by"]
    async with Redis.from_url(servers.valkey.url()) as redis:
        assert await redis.dbsize() == 0


@pytest.mark.parametrize("target", ["redis", "postgres"])
async def test_a_strike_that_is_given_up_in_the_middle_starts_its_server_again(
    servers: Servers, strike: ServerFault, target: str
) -> None:
    server = servers.valkey if target == "redis" else servers.postgres
    striking, holding = given_up(strike, "kill", target)
    await holding.wait()
    assert not server.is_running
    striking.cancel()
    await asyncio.gather(striking, return_exceptions=True)
    assert striking.cancelled()
    assert server.is_running


def given_up(
    strike: ServerFault, fault: str, target: str
) -> tuple[asyncio.Task[object], asyncio.Event]:
    """A strike that holds until it is cancelled, and the event that it has begun to."""
    holding = asyncio.Event()

    async def hold() -> None:
        holding.set()
        await asyncio.Event().wait()

    return asyncio.create_task(strike.run(fault, target, hold)), holding


async def test_while_postgres_is_exhausted_only_those_who_are_in_get_on(
    servers: Servers, strike: ServerFault
) -> None:
    url = servers.postgres.url("postgres")
    inside, leaving = await asyncpg.connect(url), await asyncpg.connect(url)
    stranger = DatabaseObserver(url)

    async def hold() -> None:
        assert await inside.fetchval("SELECT 1") == 1
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await asyncpg.connect(url)
        # What becomes free is taken as well.
        pid = leaving.get_server_pid()
        await leaving.close()
        async with asyncio.timeout(5):
            while await inside.fetchval(
                "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid = $1)"
                " AND (SELECT count(*) FROM pg_stat_activity"
                "      WHERE backend_type = 'client backend') < 200",
                pid,
            ):
                await asyncio.sleep(0.01)
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await asyncpg.connect(url)
        with pytest.raises(DatabaseUnavailable, match=r"does not answer.*too many clients"):
            await stranger.counts(0.0)

    felt, evidence = await strike.run("exhaust", "postgres", hold)
    assert felt
    # All there are but the one inside (max_connections=200, the superuser's own included).
    assert evidence["connections"] >= 199
    await until_free(servers.postgres, others=1)
    await inside.close()


@pytest.mark.parametrize("full", [True, False], ids=["when it is full", "while it fills up"])
async def test_exhausting_that_is_given_up_in_the_middle_leaves_nothing(
    servers: Servers, strike: ServerFault, *, full: bool
) -> None:
    watching = await asyncpg.connect(servers.postgres.url("postgres"))
    striking, holding = given_up(strike, "exhaust", "postgres")
    async with asyncio.timeout(15):
        if full:
            await holding.wait()
        else:
            while await watching.fetchval("SELECT count(*) < 30 FROM pg_stat_activity"):
                await asyncio.sleep(0.005)
    striking.cancel()
    await asyncio.gather(striking, return_exceptions=True)
    assert striking.cancelled()
    await until_free(servers.postgres, others=1)
    await watching.close()
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert "exhaust" not in names


@pytest.fixture
async def lasting_observer(servers: Servers) -> AsyncIterator[DatabaseObserver]:
    """A witness of a database with two tasks that wait."""
    database = f"witness_{time.time_ns()}"
    await asyncio.to_thread(servers.postgres.create_database, database)
    settings = Settings(database_url=servers.postgres.url(database))
    await upgrade_in_loop(settings)
    store = Store(settings, connections=1, application_name="test")
    await store.submit([NewTask(new_id(), "echo", "{}") for _ in range(2)], "api:api-1")
    await store.close()
    witness = DatabaseObserver(servers.postgres.url(database))
    yield witness
    await witness.close()


async def while_down(
    strike: ServerFault, during: Callable[[], Awaitable[None]], fault: str = "kill"
) -> None:
    felt, _ = await strike.run(fault, "postgres", during)
    assert felt


async def test_a_witness_waits_while_postgres_is_down(
    strike: ServerFault, lasting_observer: DatabaseObserver
) -> None:
    before = await lasting_observer.clock()
    waiting: list[asyncio.Task[object]] = []

    async def hold() -> None:
        waiting.append(asyncio.create_task(lasting_observer.clock()))
        waiting.append(asyncio.create_task(lasting_observer.counts()))
        _, pending = await asyncio.wait(waiting, timeout=0.5)
        assert len(pending) == 2

    await while_down(strike, hold)
    clock, counts = await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert isinstance(clock, type(before))
    assert clock > before
    assert counts == await lasting_observer.counts()


async def test_a_witness_that_was_never_asked_before_waits_too(
    strike: ServerFault, lasting_observer: DatabaseObserver
) -> None:
    waiting: list[asyncio.Task[list[object]]] = []

    async def hold() -> None:
        waiting.append(asyncio.create_task(lasting_observer.incarnations("worker-1")))  # type: ignore[arg-type]
        await asyncio.sleep(0.2)
        assert not waiting[0].done()

    await while_down(strike, hold)
    assert await asyncio.wait_for(waiting[0], 10) == []


async def test_in_flight_falls_back_to_what_was_seen_last(
    strike: ServerFault, lasting_observer: DatabaseObserver
) -> None:
    assert await lasting_observer.in_flight() == InFlight(open=2, running=0)

    async def hold() -> None:
        started = time.monotonic()
        assert await lasting_observer.in_flight() == InFlight(open=2, running=0)
        # A strike must not wait for what it strikes.
        assert time.monotonic() - started < 2

    await while_down(strike, hold)


async def test_a_witness_loses_its_patience(
    strike: ServerFault, lasting_observer: DatabaseObserver
) -> None:
    async def hold() -> None:
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="Postgres does not answer"):
            await lasting_observer.counts(0.3)
        assert 0.3 <= time.monotonic() - started < 3
        with pytest.raises(DatabaseUnavailable):
            await lasting_observer.running("worker-1")
        await lasting_observer.close()

    await while_down(strike, hold)
    assert (await lasting_observer.counts(5.0)).open == 2


async def test_terminated_backends_do_not_disturb_the_witness(
    servers: Servers, lasting_observer: DatabaseObserver
) -> None:
    await lasting_observer.counts()
    other = ServerFault(servers.postgres, servers.valkey, lasting_observer)
    connection = await asyncpg.connect(lasting_observer._url)
    felt, evidence = await other.run("terminate_backends", "postgres", at_once)
    assert (felt, evidence) == (True, {"backends": 1})
    connection.terminate()
    assert (await lasting_observer.counts(0.0)).open == 2
