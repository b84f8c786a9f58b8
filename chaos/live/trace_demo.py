"""`make trace`: kill the worker of a running task and show the task's trace from Jaeger."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import httpx

from chaos.errors import ChaosError
from chaos.live.actors import Command, SupervisedProcess
from chaos.mutants import SOURCES, import_path
from chaos.observers.database import DatabaseObserver
from chaos.scenario.faults import DeclaredSettings
from chaos.tasks.trace_demo import FIRST_STEP
from holdfast.devstack.host import HOST, free_port, temporary_directory
from holdfast.devstack.jaeger import EmbeddedJaeger
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.servers import EmbeddedPostgres, EmbeddedValkey
from holdfast.store.migrate import upgrade_in_loop
from holdfast.telemetry import traceparent
from holdfast.telemetry.logs import create_logger
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.otlp import span_destination
from holdfast.telemetry.spans import Span
from holdfast.telemetry.trace_context import FinishedSpan
from holdfast.telemetry.tracing import create_tracing
from holdfast.tools.trace import OPEN, NoTrace, TaskTrace, trace_of
from holdfast.tools.trace_drawing import FAULTS, show

EXPORT_SECONDS = 0.25
_DATABASE = "holdfast"
_WORKERS = ("worker-1", "worker-2")
_SETTLED_SECONDS = 90.0
_STORED_SECONDS = 20.0
_LOOK_SECONDS = 0.05
_LEASE_SECONDS = 4.0
_HEARTBEAT_SECONDS = 0.5

T = TypeVar("T")


class TraceDemoFailed(ChaosError):
    """The run did not finish; the message says what it waited for."""


async def run_trace_demo(*, keep: bool) -> None:
    """Print the URL and the drawing, then remove everything. ``keep``: Jaeger until Ctrl-C.

    Raises:
        EmbeddedError: a server did not start, or Jaeger could not be built.
        ActorFailed: a role did not start.
        TraceDemoFailed: it took too long.
    """
    with Reaper() as reaper:
        directory = temporary_directory("holdfast-trace-")
        reaper.own_directory(directory)
        async with _Stack(reaper, directory).up() as stack:
            found = await stack.run()
            print(f"\n{found.page}\n")
            show(found.spans)
            if keep:
                _say("Jaeger runs until Ctrl-C")
                await _interrupted()


@dataclass(frozen=True, slots=True)
class _Servers:
    jaeger: EmbeddedJaeger
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey


class _Stack:
    """Servers, one API, one scheduler and two workers, all of them traced."""

    def __init__(self, reaper: Reaper, directory: Path) -> None:
        self._reaper = reaper
        self._directory = directory
        self._servers = _Servers(
            EmbeddedJaeger(directory / "jaeger", reaper=reaper),
            EmbeddedPostgres(directory / "postgres", durable=False, reaper=reaper),
            EmbeddedValkey(directory / "valkey", reaper=reaper),
        )
        self._actors: dict[str, SupervisedProcess] = {}

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[_Stack]:
        """Start everything; it is ready inside the block and stopped after it."""
        servers = (self._servers.jaeger, self._servers.postgres, self._servers.valkey)
        try:
            _say("starting Jaeger, Postgres and Valkey")
            for server in servers:
                await asyncio.to_thread(server.start)
            await asyncio.to_thread(self._servers.postgres.create_database, _DATABASE)
            self._settings = DeclaredSettings(
                database_url=self._servers.postgres.url(_DATABASE),
                redis_url=self._servers.valkey.url(),
                jaeger_url=self._servers.jaeger.url,
                otlp_endpoint=self._servers.jaeger.otlp_url,
                trace_ratio=1.0,
                trace_export_seconds=EXPORT_SECONDS,
                log_format="json",
                lease_seconds=_LEASE_SECONDS,
                heartbeat_seconds=_HEARTBEAT_SECONDS,
            )
            await upgrade_in_loop(self._settings)
            self._observer = DatabaseObserver(self._settings.database_url)
            _say("starting api-1, scheduler-1, worker-1 and worker-2")
            for name in ("api-1", "scheduler-1", *_WORKERS):
                self._start(name)
            await asyncio.gather(*(actor.ready() for actor in self._actors.values()))
            yield self
        finally:
            await asyncio.shield(self._stop())

    async def run(self) -> TaskTrace:
        """Run the task, the kill and the retry; return the trace once it is complete in Jaeger."""
        async with httpx.AsyncClient(base_url=self._api, trust_env=False) as client:
            answer = await client.post("/tasks/", json={"name": "shown"})
            answer.raise_for_status()
            task = UUID(answer.json()["id"])
            _say(f"submitted task {task}")
            victim = await _until(self._running, "a worker to run the task", _SETTLED_SECONDS)

            async def in_second_step() -> bool:  # a killed process exports nothing
                return FIRST_STEP in {span.name for span in await self._stored(task)}

            await _until(in_second_step, "the span of its first step", _STORED_SECONDS)
            await self._kill(victim, answer.json()["traceparent"])

            async def succeeded() -> bool:
                answer = await client.get(f"/tasks/{task}")
                return bool(answer.json()["state"] == "SUCCEEDED")

            await _until(succeeded, "the retry to succeed", _SETTLED_SECONDS)
        _say("the retry has succeeded")
        return await _until(lambda: self._complete(task), "the trace in Jaeger", _STORED_SECONDS)

    async def _running(self) -> str | None:
        for name in _WORKERS:
            if await self._observer.running(name):
                return name
        return None

    async def _kill(self, victim: str, parent: str) -> None:
        """Send SIGKILL and record it as a span in the task's own trace."""
        actor = self._actors[victim]
        if not await self._observer.running(victim):
            raise TraceDemoFailed(f"{victim} finished the task before it could be killed")
        log = create_logger(level="WARNING", label="chaos")
        tracing = create_tracing(
            span_destination(self._settings.otlp_endpoint, {}),
            1.0,
            Metrics("chaos"),
            log,
            role="chaos",
            label="harness",
            version=version("holdfast"),
        )
        tracing.start()
        create = traceparent.parse(parent)
        if create is None:
            raise TraceDemoFailed(f"the task has no trace context: {parent!r}")
        began = time.time_ns()
        actor.abandon()
        await actor.gone()
        _say(f"killed {victim} with SIGKILL while it ran the task")
        attributes = {"holdfast.fault": "kill", "holdfast.target": victim}
        name = f"kill {victim}"
        tracing.record(
            FinishedSpan(
                name, tracing.child(create), create, began, time.time_ns(), attributes=attributes
            )
        )
        await tracing.aclose()

    async def _complete(self, task: UUID) -> TaskTrace | None:
        """Return the trace if it has both ended attempts and the kill."""
        try:
            found = await trace_of(task, self._settings)
        except NoTrace:
            return None
        outcomes = [span.attributes.get("holdfast.outcome", OPEN) for span in found.spans]
        ends = [outcome for outcome in outcomes if outcome != OPEN]
        kills = [span for span in found.spans if span.service == FAULTS]
        return found if len(ends) > 1 and kills else None

    async def _stored(self, task: UUID) -> list[Span]:
        try:
            return (await trace_of(task, self._settings)).spans
        except NoTrace:
            return []

    def _start(self, name: str) -> None:
        role = name.partition("-")[0]
        port = free_port()
        argv = [sys.executable, "-m", "holdfast", role]
        argv += ["--app", "chaos.tasks.trace_demo"] if role == "worker" else []
        own = {"label": name, "api_port" if role == "api" else "health_port": port}
        given = self._settings.model_dump(exclude_unset=True) | own
        variables = {f"HOLDFAST_{key.upper()}": str(value) for key, value in given.items()}
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": import_path(SOURCES),
        }
        log = self._directory / f"{name}.log"
        url = f"http://{HOST}:{port}"
        command = Command(argv, environment | variables, self._directory, log, f"{url}/readyz")
        self._actors[name] = SupervisedProcess(name, command, self._reaper, lambda _: None)
        self._actors[name].start()
        if role == "api":
            self._api = url

    async def _stop(self) -> None:
        await asyncio.gather(*(actor.stop() for actor in self._actors.values()))
        if hasattr(self, "_observer"):
            await self._observer.close()
        for server in (self._servers.valkey, self._servers.postgres, self._servers.jaeger):
            await asyncio.to_thread(server.stop)


async def _until(look: Callable[[], Awaitable[T | None]], what: str, seconds: float) -> T:
    give_up = time.monotonic() + seconds
    while not (found := await look()):
        if time.monotonic() > give_up:
            raise TraceDemoFailed(f"timed out after {seconds:.0f} s waiting for {what}")
        await asyncio.sleep(_LOOK_SECONDS)
    return found


async def _interrupted() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopped.set)
    await stopped.wait()


def _say(line: str) -> None:
    print(f"trace: {line}", file=sys.stderr, flush=True)
