"""The arenas in real time: start a stack for each run, run the scenario on it, judge it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from chaos.checker import bounds
from chaos.history.history import HistoryWriter
from chaos.history.records import Record
from chaos.live.clients import LocustProcess
from chaos.live.hint_watch import HintWatch
from chaos.live.metrics_endpoint import exposed
from chaos.live.progress import RunProgress
from chaos.live.stack_factory import StackEnvironment, StackFactory, StackSpec
from chaos.mutants import find, plant
from chaos.observers.collector import forward_exports
from chaos.report import files
from chaos.run import artifacts
from chaos.run.runner import ArenaClock, Runner
from chaos.run.spec import RunResult, RunSpec, sources_commit
from chaos.run.store import RunStore
from chaos.run.suite_report import run_lines
from chaos.scenario.workload import generate


class RealTimeArena:
    """Runs specs on stacks in real time, one at a time (an ``Arena``).

    ``targets``: the file that lists the processes of the current run for Prometheus.
    """

    def __init__(self, stacks: StackFactory, targets: Path | None = None) -> None:
        self._stacks = stacks
        self._targets = targets

    async def run(self, spec: RunSpec) -> RunResult:
        """Run the spec, judge it and write its report.

        Raises:
            MutantError: the mutant does not fit the sources.
            RunFailed: a process did not become ready, or the harness itself failed.
        """
        started = time.monotonic()
        sources = await asyncio.to_thread(self._sources, spec.mutant)
        store = RunStore(spec.runs)
        directory = store.new_run(spec.scenario.id, spec.seed, spec.mutant)
        progress = RunProgress(spec.scenario.id)
        run = _Run(spec.drawn(), self._stacks, sources, directory, progress)
        try:
            await run.execute(self._targets)
            progress.show("judging")
            judgement = await asyncio.to_thread(artifacts.judge, directory)
            seconds = time.monotonic() - started
            outcome = await asyncio.to_thread(files.write_run, directory, judgement, seconds)
        except Exception as error:
            seconds = time.monotonic() - started
            raise await asyncio.to_thread(
                artifacts.failure, spec, directory, error, seconds
            ) from error
        finally:
            progress.close()
        store.point_latest(directory)
        if judgement.verdict == "true" and not spec.keep:
            shutil.rmtree(directory / "logs")
        lines = run_lines(judgement, seconds, spec.seed, directory)
        return RunResult(outcome=outcome, lines=lines)

    def _sources(self, mutant: str | None) -> Path:
        """Return the sources that the roles run; plant the mutant in a copy of them once."""
        if mutant is None:
            return self._stacks.sources
        tree = self._stacks.directory / f"mutant-{mutant}"
        return tree if tree.exists() else plant(find(mutant), self._stacks.sources, tree)


class _Run:
    """What the parts of one run share. ``spec``: with a concrete scenario."""

    def __init__(
        self,
        spec: RunSpec,
        stacks: StackFactory,
        sources: Path,
        directory: Path,
        progress: RunProgress,
    ) -> None:
        self._spec = spec
        self._stacks = stacks
        self._sources = sources
        self._directory = directory
        self._logs = directory / "logs"
        self._progress = progress
        self._clock = ArenaClock()

    async def execute(self, targets: Path | None) -> None:
        """Leave ``history.jsonl`` in the directory."""
        self._logs.mkdir(parents=True)
        scenario = self._spec.scenario
        scratch = self._stacks.directory / self._directory.name
        with (
            HistoryWriter(self._directory / files.HISTORY) as history,
            (self._logs / "journal.jsonl").open("w", encoding="utf-8") as self._journal,
        ):
            log = self._logs / "clients.log"
            clients = LocustProcess(scratch, log, self._stacks.reaper)
            stack = self._stacks.stack(
                StackSpec(scenario, scratch, self._logs, self._sources, self._note, clients)
            )
            self._progress.show("starting", f"{len(scenario.topology.processes)} roles")
            commit = await asyncio.to_thread(sources_commit)
            async with stack.up(), self._loaded(stack, clients):
                watch = HintWatch(stack.redis_url)
                stack.hints = watch.hints
                async with watch.watching(), exposed(targets, stack.probes) as count_fault:

                    def write(record: Record) -> None:
                        history.write(record)
                        count_fault(record)

                    runner = Runner(
                        self._spec,
                        stack,
                        self._clock,
                        write,
                        bound=bounds.allowed(scenario),
                        commit=commit,
                        show=self._progress.show,
                    )
                    await runner.run()
                await runner.collect()
                await asyncio.to_thread(forward_exports, runner.exports)
        shutil.rmtree(scratch, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def _loaded(self, stack: StackEnvironment, clients: LocustProcess) -> AsyncIterator[None]:
        operations = generate(self._spec.scenario.workload, self._spec.seed)
        clients.start(operations, stack.api_ports, stack.environment())
        try:
            await clients.ready()
            yield
        finally:
            await asyncio.shield(clients.stop())

    def _note(self, entry: dict[str, Any]) -> None:
        line = {"seconds": round(self._clock.now(), 4)} | entry
        self._journal.write(json.dumps(line) + "\n")
        self._journal.flush()
