"""The fault ``lock_rows``: rows of tasks stay locked while it lasts, and it says who waited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from waiting import until

from chaos.live.servers import ServerFault
from chaos.observers.database import DatabaseObserver
from holdfast.devstack.host import temporary_directory
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.servers import EmbeddedPostgres, EmbeddedValkey
from holdfast.model.ids import new_id
from holdfast.model.task import NewTask
from holdfast.settings import Settings
from holdfast.store.migrate import upgrade_in_loop
from holdfast.store.store import Store

_TOUCH = "UPDATE holdfast.tasks SET seq = seq WHERE state = $1"


@pytest.fixture(scope="module")
def postgres(reaper: Reaper) -> Iterator[EmbeddedPostgres]:
    directory = temporary_directory("holdfast-test-")
    reaper.own_directory(directory)
    with EmbeddedPostgres(directory / "postgres", reaper=reaper) as server:
        yield server


class Locked:
    """A database with two QUEUED tasks and one that is SCHEDULED, and the fault."""

    def __init__(self, url: str, fault: ServerFault, observer: DatabaseObserver) -> None:
        self.url = url
        self.fault = fault
        self.observer = observer


@pytest.fixture
async def locked(
    postgres: EmbeddedPostgres, reaper: Reaper, tmp_path: Path
) -> AsyncIterator[Locked]:
    database = f"locked_{time.time_ns()}"
    await asyncio.to_thread(postgres.create_database, database)
    url = postgres.url(database)
    await upgrade_in_loop(Settings(database_url=url))
    store = Store(Settings(database_url=url), connections=1, application_name="test")
    await store.submit([NewTask(new_id(), "echo", b"{}") for _ in range(3)], "api:api-1")
    await store.dispatch(2, "scheduler:scheduler-1")
    await store.close()
    observer = DatabaseObserver(url)
    valkey = EmbeddedValkey(tmp_path / "valkey", reaper=reaper)  # is not started
    yield Locked(url, ServerFault(postgres, valkey, observer), observer)
    await observer.close()


async def test_who_wants_the_row_of_a_queued_task_waits_until_the_end(locked: Locked) -> None:
    connection = await asyncpg.connect(locked.url)
    waiting: list[asyncio.Task[str]] = []

    async def hold() -> None:
        assert await connection.execute(_TOUCH, "SCHEDULED") == "UPDATE 1"
        waiting.append(asyncio.create_task(connection.execute(_TOUCH, "QUEUED")))
        pid = connection.get_server_pid()
        session = "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'"
        (holder,) = await locked.observer._fetch(session)
        await until(lambda: _waits(locked.observer, holder["pid"], pid))
        assert not waiting[0].done()

    observed, evidence = await locked.fault.run("lock_rows", "postgres", hold)
    assert (observed, evidence) == (True, {"rows": 2, "waited": 1})
    assert await asyncio.wait_for(waiting[0], 10) == "UPDATE 2"
    await connection.close()


async def _waits(observer: DatabaseObserver, holder: int, pid: int) -> bool:
    return await observer.waiting_for(holder) == [pid]


async def test_lock_that_nobody_waits_for_is_not_observed(locked: Locked) -> None:
    async def hold() -> None:
        return

    observed, evidence = await locked.fault.run("lock_rows", "postgres", hold)
    assert (observed, evidence) == (False, {"rows": 2, "waited": 0})


async def test_nothing_is_locked_while_no_task_is_queued(
    locked: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.live.servers._RECONNECT_SECONDS", 0)
    connection = await asyncpg.connect(locked.url)
    await connection.execute("DELETE FROM holdfast.tasks WHERE state = 'QUEUED'")

    async def hold() -> None:
        assert await connection.execute(_TOUCH, "SCHEDULED") == "UPDATE 1"

    observed, evidence = await locked.fault.run("lock_rows", "postgres", hold)
    assert (observed, evidence) == (False, {"rows": 0, "waited": 0})
    await connection.close()


async def test_cancelled_lock_is_released(locked: Locked) -> None:
    connection = await asyncpg.connect(locked.url)
    holding = asyncio.Event()

    async def hold() -> None:
        holding.set()
        await asyncio.Event().wait()

    injecting = asyncio.create_task(locked.fault.run("lock_rows", "postgres", hold))
    await until(holding.is_set)
    injecting.cancel()
    await asyncio.gather(injecting, return_exceptions=True)
    assert await asyncio.wait_for(connection.execute(_TOUCH, "QUEUED"), 10) == "UPDATE 2"
    await connection.close()
