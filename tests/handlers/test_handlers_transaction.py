# ruff: noqa: PT012 - the block under test is the body of an `async with`
"""ctx.transaction() on a real Postgres, also over connections that break during COMMIT."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from tcp_server import accepting
from transaction_bench import INSERT, PID, Bench, CommitWire, claimed
from waiting import until

from holdfast.errors import OutcomeUnknown, TaskLost, Unavailable, Unstorable
from holdfast.handlers.transaction import Transaction
from holdfast.model.claim import Success
from holdfast.model.lifecycle import State
from holdfast.settings import Settings
from holdfast.store.connections import create_engine


@pytest.fixture
async def bench(settings: Settings) -> AsyncIterator[Bench]:
    quick = settings.model_copy(update={"connect_timeout_seconds": 0.5})
    async with claimed(settings, quick) as made:
        yield made


async def test_handlers_sql_and_success_commit_together(bench: Bench) -> None:
    context = bench.context()
    async with context.transaction() as tx:
        await tx.execute(INSERT, {"id": 1})
        await tx.execute(INSERT, [{"id": 2}, {"id": 3}])
        count = (await tx.execute(text("SELECT count(*) FROM orders"))).scalar_one()
        tx.result = {"orders": count}
        assert await bench.state() == (State.RUNNING, None, [])
    assert await bench.state() == (State.SUCCEEDED, {"orders": 3}, [1, 2, 3])
    assert context._commit.committed
    with pytest.raises(RuntimeError, match="has committed and the task is SUCCEEDED"):
        async with context.transaction():
            pytest.fail("a second transaction began")


async def test_exception_rolls_back_and_another_transaction_may_begin(bench: Bench) -> None:
    context = bench.context()
    with pytest.raises(LookupError, match="mine"):
        async with context.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
            raise LookupError("mine")
    assert await bench.state() == (State.RUNNING, None, [])
    assert not context._commit.committed
    async with context.transaction() as tx:
        await tx.execute(INSERT, {"id": 2})
    assert await bench.state() == (State.SUCCEEDED, None, [2])


async def test_lost_lease_rolls_everything_back(bench: Bench) -> None:
    context = bench.context()
    with pytest.raises(TaskLost, match=r"no longer belongs to this attempt \(epoch 1\).*SCHEDULED"):
        async with context.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
            assert await bench.release() is State.SCHEDULED
    assert await bench.state() == (State.SCHEDULED, None, [])
    assert not context._commit.committed


async def test_attempt_that_this_worker_ended_is_lost_although_it_runs_again_here(
    bench: Bench,
) -> None:
    context = bench.context()
    assert await bench.release() is State.SCHEDULED
    hints = (await bench.store.dispatch(1, "scheduler:test")).tasks
    (again,) = (await bench.store.claim(hints, bench.worker_id, uuid4())).grants
    assert again.epoch == 3
    with pytest.raises(TaskLost, match="ended it before, as SCHEDULED at epoch 2"):
        async with context.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
    assert await bench.state() == (State.RUNNING, None, [])


async def test_only_one_transaction_at_a_time(bench: Bench) -> None:
    context = bench.context()
    async with context.transaction() as tx:
        with pytest.raises(RuntimeError, match=r"already has a ctx\.transaction\(\) open"):
            async with context.transaction():
                pytest.fail("a second transaction began")
        await tx.execute(INSERT, {"id": 1})
    assert await bench.state() == (State.SUCCEEDED, None, [1])


async def test_sql_errors_reach_the_handler_and_a_swallowed_one_commits_nothing(
    bench: Bench,
) -> None:
    context = bench.context()
    with pytest.raises(DBAPIError, match="division by zero"):
        async with context.transaction() as tx:
            await tx.execute(text("SELECT 1/0"))
    with pytest.raises(DBAPIError, match="current transaction is aborted"):
        async with context.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
            with pytest.raises(DBAPIError):
                await tx.execute(INSERT, {"id": 1})
    assert await bench.state() == (State.RUNNING, None, [])
    assert not context._commit.unknown
    assert bench.transactions.connections_used == 0


async def test_unstorable_result_rolls_back(bench: Bench) -> None:
    for result, message in ((float("nan"), "nan"), ("x" * 2000, "more than 1000 bytes")):
        with pytest.raises(Unstorable, match=message):
            async with bench.context().transaction() as tx:
                await tx.execute(INSERT, {"id": 1})
                tx.result = result
    assert await bench.state() == (State.RUNNING, None, [])


async def backend(tx: Transaction) -> int:
    pid: int = (await tx.execute(PID)).scalar_one()
    return pid


async def gone(bench: Bench, pid: int) -> None:
    await until(lambda: not bench.sql(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"))


async def test_transaction_times_out_with_its_attempt_and_its_connection_is_discarded(
    bench: Bench,
) -> None:
    pid = 0
    with pytest.raises(TimeoutError, match="still open when the attempt timed out"):
        async with bench.context(timeout_seconds=0.5).transaction() as tx:
            pid = await backend(tx)
            await tx.execute(INSERT, {"id": 1})
            await tx.execute(text("SELECT pg_sleep(60)"))
    await gone(bench, pid)
    assert await bench.state() == (State.RUNNING, None, [])
    async with bench.context().transaction() as tx:
        assert await backend(tx) != pid
    assert (await bench.state())[0] is State.SUCCEEDED


@pytest.mark.parametrize("statement", ["SELECT pg_sleep(60)", None])
async def test_connection_of_a_cancelled_transaction_is_discarded(
    bench: Bench, statement: str | None
) -> None:
    inside: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    context = bench.context()

    async def handler() -> None:
        async with context.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
            inside.set_result(await backend(tx))
            if statement:
                await tx.execute(text(statement))
            await asyncio.sleep(60)

    running = asyncio.create_task(handler())
    pid = await inside
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await gone(bench, pid)
    assert await bench.state() == (State.RUNNING, None, [])
    async with context.transaction() as tx:
        assert await backend(tx) != pid


async def test_connection_of_a_statement_timed_out_by_the_handler_is_discarded(
    bench: Bench,
) -> None:
    with pytest.raises(TimeoutError):
        async with bench.context().transaction() as tx:
            async with asyncio.timeout(0.1):
                await tx.execute(text("SELECT pg_sleep(60)"))
    async with bench.context().transaction() as tx:
        await tx.execute(INSERT, {"id": 1})
    assert await bench.state() == (State.SUCCEEDED, None, [1])


async def test_exhausted_pool_raises_unavailable(bench: Bench) -> None:
    async with bench.context().transaction() as tx:
        await tx.execute(INSERT, {"id": 1})
        with pytest.raises(Unavailable, match="HOLDFAST_TRANSACTION_CONNECTIONS"):
            async with bench.context().transaction():
                pytest.fail("there is only one connection")
    assert await bench.state() == (State.SUCCEEDED, None, [1])


async def test_connection_lost_in_the_block_commits_nothing(bench: Bench) -> None:
    context = bench.context()
    with pytest.raises(DBAPIError):
        async with context.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
            bench.sql(f"SELECT pg_terminate_backend({await backend(tx)}, 5000)")
            await tx.execute(PID)
    assert not context._commit.unknown
    assert await bench.state() == (State.RUNNING, None, [])


async def test_connection_lost_before_the_finish_commits_nothing(bench: Bench) -> None:
    context = bench.context()
    with pytest.raises(OutcomeUnknown):
        async with context.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
            bench.sql(f"SELECT pg_terminate_backend({await backend(tx)}, 5000)")
    assert not context._commit.unknown
    assert await bench.state() == (State.RUNNING, None, [])


async def test_connection_closed_in_the_pool_is_replaced(bench: Bench) -> None:
    with pytest.raises(LookupError):
        async with bench.context().transaction() as tx:
            driver = (await tx.connection.get_raw_connection()).driver_connection
            pid = await backend(tx)
            raise LookupError
    bench.sql(f"SELECT pg_terminate_backend({pid}, 5000)")
    assert driver is not None
    await until(driver.is_closed)
    async with bench.context().transaction() as tx:
        await tx.execute(INSERT, {"id": 1})
    assert await bench.state() == (State.SUCCEEDED, None, [1])


def defer(bench: Bench, body: str) -> None:
    """Run ``body`` (plpgsql) during COMMIT of a transaction that inserted an order."""
    bench.sql(
        f"CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} "
        "RETURN NULL; END$$"
    )
    bench.sql(
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION at_commit()"
    )


async def test_commit_rejected_by_a_deferred_constraint_is_known_as_rolled_back(
    bench: Bench,
) -> None:
    defer(bench, "RAISE EXCEPTION 'not today' USING ERRCODE = 'check_violation';")
    context = bench.context()
    with pytest.raises(Unstorable, match="not today"):
        async with context.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
    assert not context._commit.unknown
    assert await bench.state() == (State.RUNNING, None, [])


async def test_backend_that_dies_in_commit_leaves_an_unknown_outcome(bench: Bench) -> None:
    defer(bench, "PERFORM pg_terminate_backend(pg_backend_pid());")
    context = bench.context()
    with pytest.raises(OutcomeUnknown):
        async with context.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
    assert context._commit.unknown
    assert not context._commit.committed
    with pytest.raises(RuntimeError, match="unknown outcome"):
        async with context.transaction():
            pytest.fail("nothing may be resent")
    assert await bench.release() is State.SCHEDULED
    assert await bench.state() == (State.SCHEDULED, None, [])


@pytest.fixture
async def wire(settings: Settings) -> AsyncIterator[tuple[Bench, CommitWire]]:
    """A bench whose handlers connect to Postgres through a CommitWire."""
    wire = CommitWire(settings.database_url)
    async with accepting(wire.accept) as port:
        url = urlsplit(settings.database_url)
        netloc = url.netloc.rpartition(":")[0] + f":{port}"
        relayed = settings.model_copy(update={"database_url": url._replace(netloc=netloc).geturl()})
        async with claimed(settings, relayed) as bench:
            yield bench, wire
            wire.released.set()


async def test_release_settles_a_commit_with_lost_reply(
    wire: tuple[Bench, CommitWire],
) -> None:
    bench, relay = wire
    relay.cut = True
    context = bench.context()
    with pytest.raises(OutcomeUnknown):
        async with context.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
            tx.result = "mine"
    assert context._commit.unknown
    assert await bench.release() is State.SUCCEEDED
    assert await bench.state() == (State.SUCCEEDED, "mine", [1])


async def test_commit_without_a_reply_is_unknown_after_its_timeout(
    wire: tuple[Bench, CommitWire],
) -> None:
    bench, _ = wire
    bench.commit_timeout_seconds = 0.3
    context = bench.context()
    with pytest.raises(OutcomeUnknown, match=r"no reply within 0\.3 s"):
        async with context.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
    assert context._commit.unknown


async def test_cancellation_waits_for_the_reply_to_a_commit_in_flight(
    wire: tuple[Bench, CommitWire],
) -> None:
    bench, relay = wire
    context = bench.context()

    async def handler() -> None:
        async with context.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})

    running = asyncio.create_task(handler())
    await relay.replied.wait()
    running.cancel()
    await asyncio.sleep(0.05)
    running.cancel()
    assert not running.done()
    relay.released.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert context._commit.committed
    assert await bench.state() == (State.SUCCEEDED, None, [1])


async def test_commit_answered_after_the_attempts_timeout_is_a_success(
    wire: tuple[Bench, CommitWire],
) -> None:
    bench, relay = wire
    loop = asyncio.get_running_loop()
    context = bench.context(timeout_seconds=0.6)
    loop.call_later(1.0, relay.released.set)
    async with context.transaction() as tx:
        await tx.execute(INSERT, {"id": 1})
    assert context.remaining_seconds() == 0
    assert context._commit.committed
    assert await bench.state() == (State.SUCCEEDED, None, [1])


async def test_unreachable_postgres_raises_unavailable(settings: Settings) -> None:
    async with claimed(settings, settings) as bench:
        nowhere = settings.model_copy(update={"database_url": "postgresql://x@127.0.0.1:1/x"})
        bench.engine = create_engine(
            nowhere, connections=1, application_name="test", autocommit=False
        )
        with pytest.raises(Unavailable, match="cannot reach Postgres"):
            async with bench.context().transaction():
                pytest.fail("there is no server")
        await bench.engine.dispose()


async def test_transaction_abandoned_by_its_handler_commits_nothing(bench: Bench) -> None:
    """The handler has returned: its result is the effect, so the block must not commit."""
    with pytest.raises(TaskLost):
        async with bench.context().transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
            success = Success(bench.grant.task_id, bench.grant.epoch, '"returned"')
            (answer,) = await bench.store.finish([success], bench.worker_id)
            assert answer.made
    assert await bench.state() == (State.SUCCEEDED, "returned", [])
