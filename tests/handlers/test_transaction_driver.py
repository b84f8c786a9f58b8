"""The end of ctx.transaction() by calls of the driver: what SQLAlchemy sees of it stays true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from transaction_bench import INSERT, Bench, claimed
from waiting import until

from holdfast.errors import Unavailable, Unstorable
from holdfast.model.lifecycle import State
from holdfast.settings import Settings
from holdfast.store.driver import DriverTransaction
from holdfast.store.transaction_pool import TransactionPool


@pytest.fixture
async def bench(settings: Settings) -> AsyncIterator[Bench]:
    async with claimed(settings, settings) as made:
        yield made


async def test_block_without_a_statement_is_one_transaction(bench: Bench) -> None:
    """The finish is its first statement: refused by COMMIT, it must leave nothing either."""
    bench.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = 'check_violation'; END$$"
    )
    bench.sql(
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON holdfast.effects DEFERRABLE "
        "INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    with pytest.raises(Unstorable, match="not today"):
        async with bench.context().transaction():
            pass
    assert await bench.state() == (State.RUNNING, None, [])
    bench.sql("DROP FUNCTION refuse CASCADE")
    async with bench.context().transaction() as tx:
        tx.result = "alone"
    assert await bench.state() == (State.SUCCEEDED, "alone", [])


async def test_finish_waits_for_a_statement_in_flight(bench: Bench) -> None:
    async with bench.context().transaction() as tx:
        await tx.execute(INSERT, {"id": 1})
        slow = asyncio.ensure_future(tx.execute(text("SELECT pg_sleep(0.3)")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await slow
    assert await bench.state() == (State.SUCCEEDED, None, [1])


async def test_session_may_roll_back_what_it_wrote(bench: Bench) -> None:
    """A library that rolls the connection back must not see its rows committed after all."""
    async with bench.context().transaction() as tx:
        await tx.execute(INSERT, {"id": 1})
        nested = await tx.connection.begin_nested()
        await tx.execute(INSERT, {"id": 2})
        await nested.rollback()
    assert await bench.state() == (State.SUCCEEDED, None, [1])


async def test_handlers_that_wait_get_the_connection_in_turn(bench: Bench) -> None:
    """A handler that comes when the connection is given back must not overtake those waiting."""
    pool = TransactionPool(bench.engine)
    order: list[int] = []

    async def hold(number: int) -> None:
        begun = await pool.begin()
        order.append(number)
        assert pool.used == 1
        await begun.rollback()
        await pool.release(begun.connection, keep=number % 2 == 0)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(hold(number))
        await until(lambda: 0 in order)
        for number in range(3, 6):
            group.create_task(hold(number))
    assert order == list(range(6))
    assert pool.used == 0
    await pool.close()


async def test_connection_that_a_handler_took_is_reset(bench: Bench) -> None:
    """Its options, such as the isolation, must not reach the next handler."""
    begun = await bench.transactions._connections.begin()
    await begun.rollback()
    connection = begun.connection
    await connection.execution_options(isolation_level="SERIALIZABLE")
    await bench.transactions._connections.release(connection, keep=False)
    async with bench.context().transaction() as tx:
        assert await tx.connection.get_isolation_level() == "READ COMMITTED"


@pytest.mark.parametrize("keep", [True, False], ids=["kept at hand", "in SQLAlchemy's pool"])
async def test_connection_lost_unnoticed_costs_the_next_handler_nothing(
    bench: Bench, keep: bool
) -> None:
    pool = bench.transactions._connections
    begun = await pool.begin()
    (row,) = await begun.rows(text("SELECT pg_backend_pid() AS pid"), {})
    await begun.rollback()
    await pool.release(begun.connection, keep=keep)
    # It blocks the event loop, which reads the server's last message only when BEGIN waits.
    bench.sql(f"SELECT pg_terminate_backend({row['pid']}, 5000)")
    async with bench.context().transaction() as tx:
        await tx.execute(INSERT, {"id": 1})
    assert await bench.state() == (State.SUCCEEDED, None, [1])


async def test_unreachable_server_is_said_once_every_pooled_connection_was_tried(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    async def broken(self: DriverTransaction) -> None:
        tried.append(self)
        raise ConnectionResetError("reset by a middlebox")

    monkeypatch.setattr(DriverTransaction, "begin", broken)
    with pytest.raises(Unavailable, match=r"cannot reach Postgres.*reset by a middlebox"):
        async with bench.context().transaction():
            pytest.fail("it began")
    assert len(tried) == bench.engine.pool.size() + 1  # type: ignore[attr-defined]
    assert bench.transactions.connections_used == 0
