"""A pool of worker processes with separate servers, each doing one job at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import psutil

from chaos.errors import ChaosError
from chaos.mutants import import_path
from chaos.simulation.suite.cores import Cores

_ANSWER_BYTES_MAX = 256 * 2**20
_STOP_SECONDS = 20.0
_CORES = Cores()  # shared by all pools of this process


class WorkerFailed(ChaosError):
    """A worker process ended, or a job raised in it; the message has the details."""


class Pool:
    """A pool of ``processes`` workers.

    ``sources``: the tree from which they import our packages, as for a mutant (default: this one).
    ``launcher``: arguments of Python that run each worker under a tool, such as coverage.
    """

    def __init__(
        self, processes: int, sources: Path | None = None, launcher: Sequence[str] = ()
    ) -> None:
        self._processes = processes
        self._sources = sources
        self._launcher = launcher
        self._workers: list[asyncio.subprocess.Process] = []

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[Pool]:
        """Start all workers; they are ready inside the block and stopped after it."""
        try:
            self._workers = [await self._start() for _ in range(self._processes)]
            for worker in self._workers:
                await self._answer(worker)
            yield self
        finally:
            await asyncio.shield(asyncio.gather(*(_stop(worker) for worker in self._workers)))

    @property
    def processor_seconds(self) -> float:
        """The processor time of all workers; of those that ended, none is counted."""
        total = 0.0
        for worker in self._workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = psutil.Process(worker.pid).cpu_times()
                total += times.user + times.system
        return total

    async def answers(
        self, jobs: Iterable[Mapping[str, Any]]
    ) -> AsyncIterator[tuple[Mapping[str, Any], dict[str, Any]]]:
        """Yield (job, answer) as jobs are done; take the next job whenever a worker is free.

        Raises:
            WorkerFailed: a worker ended, or a job raised.
        """
        todo = iter(jobs)
        running: dict[asyncio.Task[dict[str, Any]], tuple[Any, Mapping[str, Any]]] = {}

        def begin(worker: asyncio.subprocess.Process) -> None:
            job = next(todo, None)
            if job is not None:
                running[asyncio.create_task(self._do(worker, job))] = (worker, job)

        for worker in self._workers:
            begin(worker)
        try:
            while running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    worker, job = running.pop(task)
                    answer = task.result()
                    begin(worker)
                    yield job, answer
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _start(self) -> asyncio.subprocess.Process:
        environment = dict(os.environ)
        if self._sources is not None:
            # The working directory comes last, so that the user's modules are found.
            environment["PYTHONPATH"] = os.pathsep.join(
                [import_path(self._sources), str(Path.cwd())]
            )
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._launcher,
            "-m",
            "chaos.simulation.suite.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            cwd=self._sources,
            limit=_ANSWER_BYTES_MAX,
        )
        _CORES.give(worker.pid)
        return worker

    async def _do(
        self, worker: asyncio.subprocess.Process, job: Mapping[str, Any]
    ) -> dict[str, Any]:
        assert worker.stdin is not None  # noqa: S101 - requested as a pipe
        worker.stdin.write(orjson.dumps(job) + b"\n")
        with contextlib.suppress(ConnectionError):  # reading the answer raises WorkerFailed
            await worker.stdin.drain()
        return await self._answer(worker)

    async def _answer(self, worker: asyncio.subprocess.Process) -> dict[str, Any]:
        assert worker.stdout is not None  # noqa: S101
        line = await worker.stdout.readline()
        if not line:
            raise WorkerFailed(f"a simulating process ended with {await worker.wait()}")
        answer: dict[str, Any] = orjson.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer


async def _stop(worker: asyncio.subprocess.Process) -> None:
    """Close its stdin, which ends it; SIGTERM interrupts a job, SIGKILL is the last resort."""
    if worker.stdin is not None:
        worker.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        worker.terminate()
    try:
        await asyncio.wait_for(worker.wait(), _STOP_SECONDS)
    except TimeoutError:
        worker.kill()
        await worker.wait()
    finally:
        _CORES.release(worker.pid)
