"""A claimed task with its handler's transaction, and a relay that breaks at COMMIT."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.handlers import Context
from holdfast.handlers.time_limit import TimeLimit
from holdfast.handlers.transactions import Transactions
from holdfast.model.claim import Failure, Grant
from holdfast.model.ids import new_id
from holdfast.model.lifecycle import Reason, State
from holdfast.model.task import NewTask
from holdfast.runtime.turns import Turns
from holdfast.settings import Settings
from holdfast.store.connections import create_engine
from holdfast.store.store import Store

INSERT = text("INSERT INTO orders (id) VALUES (:id)")
PID = text("SELECT pg_backend_pid()")


@dataclass
class Bench:
    """One claimed task, and the dependencies of its handler's transaction."""

    store: Store
    engine: AsyncEngine
    worker_id: UUID
    grant: Grant
    database_url: str
    commit_timeout_seconds: float = 5.0

    @cached_property
    def transactions(self) -> Transactions:
        """Those of all contexts; made when first used."""
        return Transactions(
            self.engine,
            self.store,
            self.worker_id,
            Turns(),
            result_bytes_max=1000,
            commit_timeout_seconds=self.commit_timeout_seconds,
        )

    def context(self, timeout_seconds: float | None = None) -> Context:
        loop = asyncio.get_running_loop()
        seconds = self.grant.timeout_seconds if timeout_seconds is None else timeout_seconds
        limit = TimeLimit(seconds, clock=loop.time, claimed=loop.time())
        limit.begin()
        return Context(self.grant, limit=limit, open_transaction=self.transactions.open)

    async def state(self) -> tuple[State, Any, list[int]]:
        """Return the task's state, its ledger result and the handler's rows, as committed."""
        story = await self.store.get(self.grant.task_id)
        assert story is not None
        orders = [row[0] for row in self.sql("SELECT id FROM orders ORDER BY id")]
        result = json.loads(story.effect.result) if story.effect else None
        return story.task.state, result, orders

    def sql(self, statement: str) -> list[Any]:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    async def release(self) -> State | None:
        """Release the attempt, as a worker does after an unknown COMMIT; return the state."""
        failure = Failure(self.grant.task_id, self.grant.epoch, Reason.FAILED)
        return (await self.store.release([failure], self.worker_id))[0].state


@asynccontextmanager
async def claimed(settings: Settings, engine_settings: Settings) -> AsyncIterator[Bench]:
    store = Store(settings, connections=2, application_name="test")
    engine = create_engine(
        engine_settings, connections=1, application_name="test-handlers", autocommit=False
    )
    try:
        worker_id = uuid4()
        await store.register(worker_id, "worker-1", ["default"], [])
        await store.submit([NewTask(id=new_id(), name="order", payload=b"{}")], "api:test")
        hints = (await store.dispatch(1, "scheduler:test")).tasks
        (grant,) = (await store.claim(hints, worker_id, uuid4())).grants
        bench = Bench(store, engine, worker_id, grant, settings.database_url)
        bench.sql("CREATE TABLE orders (id int PRIMARY KEY)")
        yield bench
        await bench.transactions.close()
    finally:
        await engine.dispose()
        await store.close()


class CommitWire:
    """A TCP relay to Postgres that withholds, or cuts before, the reply to COMMIT."""

    def __init__(self, database_url: str) -> None:
        self._target = urlsplit(database_url)
        self._commit_sent = False
        self.replied = asyncio.Event()
        self.released = asyncio.Event()
        self.cut = False

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target.hostname, self._target.port
        up_reader, up_writer = await asyncio.open_connection(host, port)
        try:
            await asyncio.gather(
                self._upstream(reader, up_writer), self._downstream(up_reader, writer)
            )
        except ConnectionError:
            pass
        finally:
            up_writer.close()
            writer.close()

    async def _upstream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if b"COMMIT;" in data:
                self._commit_sent = True
            writer.write(data)
            await writer.drain()
        raise ConnectionError

    async def _downstream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._commit_sent:
                self.replied.set()
                if self.cut:
                    raise ConnectionError
                await self.released.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionError
