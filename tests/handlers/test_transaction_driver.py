"""The end of ctx.transaction() by calls of the driver: what SQLAlchemy sees of it stays true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from transaction_bench import INSERT, Bench, claimed

from holdfast.errors import Unstorable
from holdfast.model.lifecycle import State
from holdfast.settings import Settings


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
