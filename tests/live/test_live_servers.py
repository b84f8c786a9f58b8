"""Faults of the servers take effect and leave nothing behind; the observer survives them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError
from waiting import until, within

from chaos.history.records import InFlight
from chaos.history.rest import QueueHints
from chaos.live.servers import ServerFault
from chaos.observers.database import DatabaseObserver, DatabaseUnavailable
from chaos.observers.hints import hints_left_at
from holdfast.devstack.host import temporary_directory
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.servers import EmbeddedPostgres, EmbeddedValkey
from holdfast.model.ids import new_id
from holdfast.model.task import NewTask
from holdfast.settings import Settings
from holdfast.store.migrate import upgrade_in_loop
from holdfast.store.store import Store


class Servers:
    """Servers for this module alone, because its tests kill them."""

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
async def no_connections_left(servers: Servers) -> AsyncIterator[None]:
    """Wait until a test has left no connection to Postgres."""
    yield
    await until_free(servers.postgres)


async def backends(postgres: EmbeddedPostgres) -> int:
    """Count client connections other than this one."""
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
async def server_fault(servers: Servers) -> AsyncIterator[ServerFault]:
    observer = DatabaseObserver(servers.postgres.url("postgres"))
    yield ServerFault(servers.postgres, servers.valkey, observer)
    await observer.close()


async def end_immediately() -> None:
    return


@pytest.mark.parametrize("fault", ["kill", "restart"])
async def test_postgres_is_down_during_the_fault_and_returns_with_its_data(
    servers: Servers, server_fault: ServerFault, fault: str
) -> None:
    url = servers.postgres.url("postgres")
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE TABLE kept_{fault} ()")

    async def hold() -> None:
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncpg.connect(url, timeout=2)

    observed, evidence = await server_fault.run(fault, "postgres", hold)
    assert observed
    assert evidence["pid"] != evidence["replaced_by"]
    connection.terminate()
    again = await asyncpg.connect(url)
    await again.execute(f"SELECT * FROM kept_{fault}")
    await again.close()


async def test_all_backends_but_the_observer_are_terminated(
    servers: Servers, server_fault: ServerFault
) -> None:
    assert await server_fault.run("terminate_backends", "postgres", end_immediately) == (
        False,
        {"backends": 0},
    )
    connection = await asyncpg.connect(servers.postgres.url("postgres"))
    observed, evidence = await server_fault.run("terminate_backends", "postgres", end_immediately)
    assert (observed, evidence) == (True, {"backends": 1})
    await until(connection.is_closed)
    connection.terminate()


async def test_flush_is_observed_only_if_there_were_keys(
    servers: Servers, server_fault: ServerFault
) -> None:
    async with Redis.from_url(servers.valkey.url()) as redis:
        await redis.flushall()
        assert await server_fault.run("flush", "redis", end_immediately) == (False, {"keys": 0})
        await redis.set("a", 1)
        assert await server_fault.run("flush", "redis", end_immediately) == (True, {"keys": 1})
        assert await redis.dbsize() == 0


async def test_full_redis_refuses_writes_and_answers_reads(
    servers: Servers, server_fault: ServerFault
) -> None:
    async with Redis.from_url(servers.valkey.url()) as redis:
        await redis.set("a", 1)

        async def hold() -> None:
            assert await redis.get("a") == b"1"
            with pytest.raises(OutOfMemoryError):
                await redis.set("a", 2)

        observed, evidence = await server_fault.run("refuse_writes", "redis", hold)
        assert (observed, evidence) == (True, {"refused": 1})
        await redis.set("a", 3)
        observed, evidence = await server_fault.run("refuse_writes", "redis", end_immediately)
        assert (observed, evidence) == (False, {"refused": 0}), "no client wrote meanwhile"


async def test_client_kill_disconnects_redis_clients(
    servers: Servers, server_fault: ServerFault
) -> None:
    async with Redis.from_url(servers.valkey.url(), single_connection_client=True) as redis:
        before = await redis.client_id()
        observed, evidence = await server_fault.run("client_kill", "redis", end_immediately)
        assert (observed, evidence) == (True, {"connections": 1})
        try:
            after = await redis.client_id()
        except RedisConnectionError:
            after = None
        assert after != before


async def test_hints_left_are_read_from_a_real_server(servers: Servers) -> None:
    url = servers.valkey.url()
    async with Redis.from_url(url) as client:
        for number in range(3):
            await client.xadd("holdfast:hints:Bulk", {"id": number})
        await client.xgroup_create("holdfast:hints:Bulk", "workers", "0")
        await client.xreadgroup("workers", "me", {"holdfast:hints:Bulk": ">"}, count=2)
        await client.xadd("other:hints:default", {"id": 1})
        found = await hints_left_at(url, "holdfast")
        await client.flushall()
    assert found == (QueueHints(queue="Bulk", entries=3, pending=2),)
    assert await hints_left_at(url, "holdfast") == ()


async def test_restart_empty_returns_redis_without_data(
    servers: Servers, server_fault: ServerFault
) -> None:
    async with Redis.from_url(servers.valkey.url()) as redis:
        await redis.set("a", 1)
    observed, _ = await server_fault.run("restart_empty", "redis", end_immediately)
    assert observed
    async with Redis.from_url(servers.valkey.url()) as redis:
        assert await redis.dbsize() == 0


async def test_redis_is_down_while_the_fault_lasts(
    servers: Servers, server_fault: ServerFault
) -> None:
    async with Redis.from_url(servers.valkey.url()) as redis:
        await redis.set("a", 1)

    async def hold() -> None:
        async with Redis.from_url(servers.valkey.url()) as redis:
            with pytest.raises(RedisConnectionError):
                await redis.ping()

    observed, evidence = await server_fault.run("kill", "redis", hold)
    assert observed
    assert evidence["pid"] != evidence["replaced_by"]
    async with Redis.from_url(servers.valkey.url()) as redis:
        assert await redis.dbsize() == 0


@pytest.mark.parametrize("target", ["redis", "postgres"])
async def test_cancelled_server_fault_restarts_its_server(
    servers: Servers, server_fault: ServerFault, target: str
) -> None:
    server = servers.valkey if target == "redis" else servers.postgres
    injecting, holding = hold_until_cancelled(server_fault, "kill", target)
    await holding.wait()
    assert not server.is_running
    injecting.cancel()
    await asyncio.gather(injecting, return_exceptions=True)
    assert injecting.cancelled()
    assert server.is_running


def hold_until_cancelled(
    server_fault: ServerFault, fault: str, target: str
) -> tuple[asyncio.Task[object], asyncio.Event]:
    """Start a fault that holds until cancelled; return its task and the event that it holds."""
    holding = asyncio.Event()

    async def hold() -> None:
        holding.set()
        await asyncio.Event().wait()

    return asyncio.create_task(server_fault.run(fault, target, hold)), holding


async def test_exhausted_postgres_serves_only_connections_opened_before(
    servers: Servers, server_fault: ServerFault
) -> None:
    url = servers.postgres.url("postgres")
    open_before, closing = await asyncpg.connect(url), await asyncpg.connect(url)
    late_observer = DatabaseObserver(url)

    async def hold() -> None:
        assert await open_before.fetchval("SELECT 1") == 1
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await asyncpg.connect(url)
        # A connection that becomes free is taken too.
        pid = closing.get_server_pid()
        await closing.close()

        async def taken() -> bool:
            # Its backend is either still there, or another one has its place.
            found: bool = await open_before.fetchval(
                "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid = $1)"
                " OR (SELECT count(*) FROM pg_stat_activity"
                "     WHERE backend_type = 'client backend') >= 200",
                pid,
            )
            return found

        await until(taken)
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await asyncpg.connect(url)
        with pytest.raises(DatabaseUnavailable, match=r"does not respond.*too many clients"):
            await late_observer.counts(0.0)

    observed, evidence = await server_fault.run("exhaust", "postgres", hold)
    assert observed
    # All but the one that was open (max_connections=200, including those for superusers).
    assert evidence["connections"] >= 199
    await until_free(servers.postgres, others=1)
    await open_before.close()


@pytest.mark.parametrize("full", [True, False], ids=["when it is full", "while it fills up"])
async def test_cancelled_exhaust_leaves_no_connections(
    servers: Servers, server_fault: ServerFault, *, full: bool
) -> None:
    watching = await asyncpg.connect(servers.postgres.url("postgres"))
    injecting, holding = hold_until_cancelled(server_fault, "exhaust", "postgres")

    async def filling() -> bool:
        found: bool = await watching.fetchval("SELECT count(*) >= 30 FROM pg_stat_activity")
        return found

    await until(holding.is_set if full else filling)
    injecting.cancel()
    await asyncio.gather(injecting, return_exceptions=True)
    assert injecting.cancelled()
    await until_free(servers.postgres, others=1)
    await watching.close()
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert "exhaust" not in names


@pytest.fixture
async def lasting_observer(servers: Servers) -> AsyncIterator[DatabaseObserver]:
    """Observe a database with two waiting tasks."""
    database = f"observer_{time.time_ns()}"
    await asyncio.to_thread(servers.postgres.create_database, database)
    settings = Settings(database_url=servers.postgres.url(database))
    await upgrade_in_loop(settings)
    store = Store(settings, connections=1, application_name="test")
    await store.submit([NewTask(new_id(), "echo", b"{}") for _ in range(2)], "api:api-1")
    await store.close()
    observer = DatabaseObserver(servers.postgres.url(database))
    yield observer
    await observer.close()


async def while_down(
    server_fault: ServerFault, during: Callable[[], Awaitable[None]], fault: str = "kill"
) -> None:
    observed, _ = await server_fault.run(fault, "postgres", during)
    assert observed


async def test_observer_waits_while_postgres_is_down(
    server_fault: ServerFault, lasting_observer: DatabaseObserver
) -> None:
    before = await lasting_observer.clock()
    waiting: list[asyncio.Task[object]] = []

    async def hold() -> None:
        waiting.append(asyncio.create_task(lasting_observer.clock()))
        waiting.append(asyncio.create_task(lasting_observer.counts()))
        _, pending = await asyncio.wait(waiting, timeout=0.5)
        assert len(pending) == 2

    await while_down(server_fault, hold)
    clock, counts = await within(asyncio.gather(*waiting), lambda: waiting)
    assert isinstance(clock, type(before))
    assert clock > before
    assert counts == await lasting_observer.counts()


async def test_observer_without_a_connection_waits_too(
    server_fault: ServerFault, lasting_observer: DatabaseObserver
) -> None:
    waiting: list[asyncio.Task[list[object]]] = []

    async def hold() -> None:
        waiting.append(asyncio.create_task(lasting_observer.incarnations("worker-1")))  # type: ignore[arg-type]
        await asyncio.sleep(0.2)
        assert not waiting[0].done()

    await while_down(server_fault, hold)
    assert await within(waiting[0], lambda: waiting) == []


async def test_in_flight_falls_back_to_the_last_counts(
    server_fault: ServerFault, lasting_observer: DatabaseObserver
) -> None:
    assert await lasting_observer.in_flight() == InFlight(open=2, running=0)

    async def hold() -> None:
        started = time.monotonic()
        assert await lasting_observer.in_flight() == InFlight(open=2, running=0)
        # An injection must not wait for the server that it breaks.
        assert time.monotonic() - started < 2

    await while_down(server_fault, hold)


async def test_observer_times_out(
    server_fault: ServerFault, lasting_observer: DatabaseObserver
) -> None:
    async def hold() -> None:
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="Postgres does not respond"):
            await lasting_observer.counts(0.3)
        assert 0.3 <= time.monotonic() - started < 3
        with pytest.raises(DatabaseUnavailable):
            await lasting_observer.running("worker-1")
        await lasting_observer.close()

    await while_down(server_fault, hold)
    assert (await lasting_observer.counts(5.0)).open == 2


async def test_terminated_backends_do_not_disturb_the_observer(
    servers: Servers, lasting_observer: DatabaseObserver
) -> None:
    await lasting_observer.counts()
    other = ServerFault(servers.postgres, servers.valkey, lasting_observer)
    connection = await asyncpg.connect(lasting_observer.url)
    observed, evidence = await other.run("terminate_backends", "postgres", end_immediately)
    assert (observed, evidence) == (True, {"backends": 1})
    connection.terminate()
    assert (await lasting_observer.counts(0.0)).open == 2
