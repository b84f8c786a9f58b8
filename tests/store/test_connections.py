"""Connections in the field: addresses with options, networks that drop them, connection poolers."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import text
from waiting import until
from wire import Wire, wire_to

from chaos.live.pgbouncer import NoPgBouncer, PgBouncer
from holdfast.devstack.reaper import Reaper
from holdfast.errors import Misconfigured, OutcomeUnknown, StatementCancelled, Unavailable
from holdfast.settings import Settings
from holdfast.store import connections
from holdfast.store.connections import checkout, create_engine, is_pooler_between
from holdfast.store.database import Database
from holdfast.store.driver import DriverTransaction

PID = text("SELECT pg_backend_pid() AS pid")
SLOW_PID = text("SELECT pg_backend_pid() AS pid, pg_sleep(0.2)")
Open = Callable[..., Database]


@pytest.fixture
async def opened(settings: Settings) -> AsyncIterator[Open]:
    """``opened(url, connections=2)``: a Database with a short statement timeout."""
    made: list[Database] = []

    def make(url: str = settings.database_url, connections: int = 1) -> Database:
        quick = {"database_url": url, "statement_timeout_seconds": 1.0}
        changed = settings.model_copy(update=quick)
        made.append(Database(changed, connections=connections, application_name="test"))
        return made[-1]

    yield make
    for database in made:
        await database.close()


@pytest.fixture
async def wire(settings: Settings) -> AsyncIterator[Wire]:
    async with wire_to(settings.database_url) as found:
        yield found


async def fill(database: Database, count: int) -> set[int]:
    """Open ``count`` connections; return the pids of their backends."""
    answers = await asyncio.gather(*(database.rows(SLOW_PID) for _ in range(count)))
    return {rows[0]["pid"] for rows in answers}


async def test_options_of_the_address_take_effect(settings: Settings, opened: Open) -> None:
    url = settings.database_url
    options = "sslmode=prefer&application_name=billing&options=-c%20statement_timeout%3D8765"
    (row,) = await opened(f"{url}?{options}&connect_timeout=3&channel_binding=prefer").rows(
        text(
            "SELECT current_setting('statement_timeout') AS timeout,"
            " current_setting('application_name') AS name"
        )
    )
    assert row == {"timeout": "8765ms", "name": "billing"}


async def test_next_host_is_used_if_the_first_is_down(settings: Settings, opened: Open) -> None:
    parts = urlsplit(settings.database_url)
    several = settings.database_url.replace(
        f"{parts.hostname}:{parts.port}", f"127.0.0.1:1,{parts.hostname}:{parts.port}"
    )
    assert await opened(several).rows(PID)


async def test_option_that_the_driver_refuses_is_one_line(settings: Settings, opened: Open) -> None:
    with pytest.raises(Misconfigured, match=r"^HOLDFAST_DATABASE_URL: `sslmode`") as raised:
        await opened(f"{settings.database_url}?sslmode=sometimes").rows(PID)
    assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(Unavailable, match="rejected SSL") as refused:
        await opened(f"{settings.database_url}?sslmode=require").rows(PID)
    assert len(str(refused.value).splitlines()) == 1


async def test_one_unanswered_statement_empties_the_pool(wire: Wire, opened: Open) -> None:
    """A NAT that forgot ten connections once cost ten timeouts, one after the other."""
    database = opened(wire.url, connections=4)
    before = await fill(database, 4)
    assert len(before) == 4
    wire.swallow()
    with pytest.raises(OutcomeUnknown, match="did not answer"):
        await database.rows(PID)
    started = asyncio.get_running_loop().time()
    assert not await fill(database, 4) & before
    assert asyncio.get_running_loop().time() - started < 0.9, "not another timeout"


async def test_unanswered_statement_keeps_connections_that_answered_since(
    settings: Settings, opened: Open
) -> None:
    database = opened(connections=2)
    stuck = asyncio.create_task(database.rows(text("SELECT pg_sleep(5)")))
    (before,) = await database.rows(PID)
    while not stuck.done():
        (row,) = await database.rows(PID)
        assert row == before
    with pytest.raises(OutcomeUnknown):
        await stuck
    assert before in [(await database.rows(PID))[0] for _ in range(2)]


async def test_idle_connection_is_probed_before_its_use(
    wire: Wire, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler's transaction on a dropped connection would wait for the attempt's timeout."""
    monkeypatch.setattr(connections, "_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(connections, "_PROBE_SECONDS", 0.3)
    through = settings.model_copy(update={"database_url": wire.url})
    engine = create_engine(through, connections=2, application_name="test", autocommit=False)
    try:
        pids = []
        for _ in range(2):
            connection = await checkout(engine)
            pids.append((await connection.execute(PID)).scalar_one())
            await connection.close()
        assert pids[0] == pids[1], "a probed connection that answers is used"
        wire.swallow()
        async with asyncio.timeout(1.0):
            connection = await checkout(engine)
            assert (await connection.execute(PID)).scalar_one() != pids[0]
        await connection.close()
    finally:
        await engine.dispose()


async def test_closing_does_not_wait_for_a_network_that_drops_everything(
    wire: Wire, opened: Open
) -> None:
    """A worker that was marked dead would never exit, nor would its supervisor restart it."""
    database = opened(wire.url, connections=3)
    await asyncio.gather(*(database.rows(SLOW_PID) for _ in range(3)))
    wire.swallow()
    async with asyncio.timeout(1):
        await database.close()


async def test_closing_ends_the_sessions(settings: Settings, opened: Open) -> None:
    database = opened(connections=2)
    pids = await asyncio.gather(*(database.rows(SLOW_PID) for _ in range(2)))
    await database.close()
    left = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)"
    with psycopg.connect(settings.database_url) as other:
        await until(lambda: _first(other, left, [[row["pid"] for (row,) in pids]]) == 0)


def _first(connection: psycopg.Connection[Any], query: LiteralString, values: list[Any]) -> Any:
    connection.rollback()  # a transaction would see the same statistics again
    return (connection.execute(query, values).fetchone() or (None,))[0]


async def test_closed_connections_are_not_used(wire: Wire, opened: Open) -> None:
    database = opened(wire.url, connections=3)
    used = [await checkout(database.engine) for _ in range(3)]
    raws: list[Any] = [(await each.get_raw_connection()).driver_connection for each in used]
    for connection in used:
        await connection.close()
    wire.cut()
    await until(lambda: all(raw.is_closed() for raw in raws))
    for _ in range(3):
        assert await database.rows(PID)


async def test_connection_is_kept_alive(settings: Settings) -> None:
    url = f"{settings.database_url}?keepalives_idle=77"
    changed = settings.model_copy(update={"database_url": url})
    engine = create_engine(changed, connections=1, application_name="test", autocommit=True)
    connection = await checkout(engine)
    raw: Any = (await connection.get_raw_connection()).driver_connection
    peer = raw._transport.get_extra_info("socket")
    assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
    await connection.close()
    await engine.dispose()


async def test_cancelled_statement_did_nothing(settings: Settings, opened: Open) -> None:
    database = opened(f"{settings.database_url}?options=-c%20statement_timeout%3D50")
    with pytest.raises(StatementCancelled, match=r"nothing was done: .*statement timeout"):
        await database.rows(SLOW_PID)


async def test_altered_table_is_no_failure(settings: Settings, opened: Open) -> None:
    """Its statements are prepared anew; they used to fail once on every connection."""
    database = opened()
    statement = text("SELECT * FROM changing")
    with psycopg.connect(settings.database_url, autocommit=True) as other:
        other.execute("CREATE TABLE changing (a int)")
        assert await database.rows(statement) == []
        other.execute("ALTER TABLE changing ADD COLUMN b int DEFAULT 2")
        other.execute("INSERT INTO changing VALUES (1)")
    assert await database.rows(statement) == [{"a": 1, "b": 2}]


@pytest.fixture
def pgbouncer(settings: Settings, temporary: Path, reaper: Reaper) -> Iterator[PgBouncer]:
    place = temporary / "pgbouncer"
    try:
        with PgBouncer(place, settings.database_url, reaper=reaper) as server:
            yield server
    except NoPgBouncer as error:
        pytest.skip(str(error))
    finally:
        shutil.rmtree(place, ignore_errors=True)


async def test_statements_work_behind_a_pooler(pgbouncer: PgBouncer, opened: Open) -> None:
    """Each transaction may get another server connection, without the statements prepared before.

    Twenty clients on two server connections used to fail at the first statement.
    """
    databases = [opened(pgbouncer.url) for _ in range(20)]
    statement = text("SELECT CAST(:n AS int) + 1 AS n, pg_sleep(0.001)")
    for turn in range(5):
        answers = await asyncio.gather(
            *(database.rows(statement, {"n": turn * n}) for n, database in enumerate(databases))
        )
        assert [rows[0]["n"] for rows in answers] == [turn * n + 1 for n in range(20)]
    assert all(is_pooler_between(database.engine) for database in databases)
    direct = opened()
    assert await direct.rows(PID)
    assert not is_pooler_between(direct.engine)


async def test_handlers_transaction_works_behind_a_pooler(
    pgbouncer: PgBouncer, settings: Settings
) -> None:
    through = settings.model_copy(update={"database_url": pgbouncer.url})
    engine = create_engine(through, connections=4, application_name="test", autocommit=False)
    try:

        async def work(n: int) -> int:
            connection = await checkout(engine)
            try:
                await connection.execute(text("SELECT set_config('my.n', :n, true)"), {"n": str(n)})
                found = await connection.execute(text("SELECT current_setting('my.n')"))
                return int(found.scalar_one())
            finally:
                await connection.close()

        for _ in range(5):
            assert await asyncio.gather(*(work(n) for n in range(4))) == [0, 1, 2, 3]
    finally:
        await engine.dispose()


async def test_driver_ends_a_transaction_behind_a_pooler(
    pgbouncer: PgBouncer, settings: Settings
) -> None:
    through = settings.model_copy(update={"database_url": pgbouncer.url})
    engine = create_engine(through, connections=4, application_name="test", autocommit=False)

    async def work(number: int) -> int:
        connection = await checkout(engine)
        begun = DriverTransaction(connection)
        pid = (await connection.execute(PID)).scalar_one()
        (row,) = await begun.rows(
            text("SELECT CAST(:n AS int) AS n, pg_backend_pid() AS pid"), {"n": number}
        )
        assert row["pid"] == pid
        await begun.commit()
        await connection.close()
        return int(row["n"])

    try:
        for _ in range(5):
            assert await asyncio.gather(*(work(n) for n in range(4))) == [0, 1, 2, 3]
        assert is_pooler_between(engine)
    finally:
        await engine.dispose()
