"""Run real schedulers and workers in the test's event loop, with short times."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
from waiting import until

from holdfast.handlers import Registry
from holdfast.instrumentation.telemetry import Telemetry
from holdfast.model.claim import Grant
from holdfast.model.dispatch import Hint
from holdfast.model.ids import new_id
from holdfast.model.lifecycle import Reason, State
from holdfast.model.task import NewTask, TaskStory
from holdfast.queue.hints import HintQueue
from holdfast.scheduler.scheduler import Scheduler
from holdfast.settings import Settings
from holdfast.store.store import Store
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.logs import create_logger
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.otlp import span_destination
from holdfast.telemetry.tracing import create_tracing
from holdfast.worker.worker import Worker

QUICK = {
    "label": "test",
    "lease_seconds": 1.5,
    "heartbeat_seconds": 0.1,
    "poll_seconds": 0.1,
    "hint_deadline_seconds": 60.0,
    "timeout_grace_seconds": 5.0,
    "shutdown_grace_seconds": 5.0,
    "statement_timeout_seconds": 2.0,
    "connect_timeout_seconds": 1.0,
    "worker_concurrency": 8,
}


@dataclass
class Bench:
    """The test's own store and queue, and the roles under test.

    The roles share ``registry``, ``metrics`` and ``log``.
    """

    settings: Settings
    store: Store
    queue: HintQueue
    registry: Registry = field(default_factory=Registry)
    metrics: Metrics = field(default_factory=lambda: Metrics("test"))
    log: io.StringIO = field(default_factory=io.StringIO)

    def quick(self, **changes: Any) -> Settings:
        """Return the settings with changes, which are not validated."""
        return self.settings.model_copy(update=changes)

    def logged(self) -> list[str]:
        """Return the ``event_name`` of every line logged so far."""
        return [json.loads(line)["event_name"] for line in self.log.getvalue().splitlines()]

    def count(self, metric: str, **labels: str) -> float:
        """Return the value of a metric; 0 if there is none."""
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0

    def sql(self, statement: str) -> list[Any]:
        """Execute a statement on a connection of its own; return its rows."""
        with psycopg.connect(self.settings.database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def telemetry(self, settings: Settings, role: str) -> Telemetry:
        """Return telemetry for a role."""
        log = create_logger(style="json", stream=self.log, level=settings.log_level)
        tracing = create_tracing(
            span_destination(settings.otlp_endpoint, {}),
            settings.trace_ratio,
            self.metrics,
            log,
            role=role,
            label=settings.label,
            version="test",
            export_seconds=settings.trace_export_seconds,
        )
        return Telemetry(log, self.metrics, tracing)

    # Tasks

    async def submit(self, *names: str, **fields: Any) -> list[UUID]:
        """Submit one task per name; ``fields`` are those of ``NewTask``, ``payload`` as a value."""
        payload = json.dumps(fields.pop("payload", {})).encode()
        tasks = [NewTask(id=new_id(), name=name, payload=payload, **fields) for name in names]
        await self.store.submit(tasks, "api:test")
        return [task.id for task in tasks]

    async def offer(self, *names: str, **fields: Any) -> list[UUID]:
        """Submit tasks, and dispatch them without a scheduler."""
        ids = await self.submit(*names, **fields)
        await self.hint()
        return ids

    async def hint(self) -> Sequence[Hint]:
        """Dispatch due tasks and publish their hints, as a scheduler would."""
        hints = (await self.store.dispatch(1000, "scheduler:test")).tasks
        await self.queue.publish(hints)
        return hints

    async def claimed(self, *names: str, worker: UUID | None = None, **fields: Any) -> list[Grant]:
        """Submit tasks and claim them for a registered worker."""
        worker = worker or await self.registered()
        await self.submit(*names, **fields)
        hints = (await self.store.dispatch(1000, "scheduler:test")).tasks
        return list((await self.store.claim(hints, worker, uuid4())).grants)

    async def registered(self, *, immortal: bool = False) -> UUID:
        """Register a worker row without a worker; its lease is never renewed.

        ``immortal``: it needs no renewal, and all attempts count as begun.
        """
        worker = uuid4()
        await self.store.register(worker, "test", ["default"], [])
        if immortal:
            self.sql(
                "UPDATE workers SET lease_expires_at = 'infinity', begun_until = 'infinity'"
                f" WHERE id = '{worker}'"
            )
        return worker

    async def story(self, task_id: UUID) -> TaskStory:
        """Return a task with its events."""
        story = await self.store.get(task_id)
        assert story is not None
        return story

    async def state(self, task_id: UUID) -> State:
        return (await self.story(task_id)).task.state

    async def reasons(self, task_id: UUID) -> list[Reason]:
        return [event.reason for event in (await self.story(task_id)).events]

    async def error(self, task_id: UUID) -> dict[str, Any]:
        """Return the error in the detail of the last event."""
        detail = (await self.story(task_id)).events[-1].detail
        assert detail is not None
        error: dict[str, Any] = detail["error"]
        return error

    async def until_state(
        self, tasks: UUID | Sequence[UUID], *states: State, seconds: float = 10.0
    ) -> None:
        """Wait until every task is in one of the states."""
        ids = [tasks] if isinstance(tasks, UUID) else list(tasks)

        async def reached() -> bool:
            return all([await self.state(task_id) in states for task_id in ids])

        def others() -> str:
            named = ", ".join(f"'{task_id}'" for task_id in ids)
            wanted = ", ".join(f"'{state}'" for state in states)
            rows = self.sql(
                "SELECT id::text, state, attempt, losses, epoch FROM tasks"
                f" WHERE id IN ({named}) AND state NOT IN ({wanted})"
            )
            return "; ".join(
                f"{task} {state}, attempt {attempt}, losses {losses}, epoch {epoch}"
                for task, state, attempt, losses, epoch in rows
            )

        await until(reached, seconds, others)

    # Roles

    @contextlib.asynccontextmanager
    async def worker(self, **changes: Any) -> AsyncIterator[Worker]:
        """Run a worker during the block, then check that it stops gracefully with code 0."""
        async with self.incarnation(**changes) as (worker, running):
            yield worker
            worker.stop()
            assert await running == 0

    @contextlib.asynccontextmanager
    async def incarnation(self, **changes: Any) -> AsyncIterator[tuple[Worker, asyncio.Task[int]]]:
        """Run a worker during the block; the test decides how it ends."""
        settings = self.quick(**changes)
        telemetry = self.telemetry(settings, "worker")
        telemetry.tracing.start()
        worker = Worker(settings, self.registry, telemetry)
        running = asyncio.create_task(worker.run())
        try:
            await until(lambda: EventName.WORKER_STARTED in self.logged() or running.done())
            yield worker, running
        finally:
            if not running.done():
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            await telemetry.tracing.aclose()

    @contextlib.asynccontextmanager
    async def scheduler(self, **changes: Any) -> AsyncIterator[Scheduler]:
        """Run a scheduler during the block."""
        settings = self.quick(**changes)
        telemetry = self.telemetry(settings, "scheduler")
        telemetry.tracing.start()
        scheduler = Scheduler(settings, telemetry)
        running = asyncio.create_task(scheduler.run())
        try:
            yield scheduler
        finally:
            scheduler.stop()
            await running
            await telemetry.tracing.aclose()


@contextlib.asynccontextmanager
async def bench_for(settings: Settings) -> AsyncIterator[Bench]:
    """Open a bench on the servers of ``settings``, with the short times of ``QUICK``."""
    quick = settings.model_copy(update=QUICK)
    store = Store(quick, connections=2, application_name="test")
    queue = HintQueue(quick, connections=2)
    try:
        yield Bench(quick, store, queue)
    finally:
        await store.close()
        await queue.close()
