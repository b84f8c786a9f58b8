"""One scenario on the real stack: start it, send it through its course, judge it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos import bounds, filing, forwarding
from chaos.course import ArenaClock, Course, Plan
from chaos.filing import Report
from chaos.history import HistoryWriter
from chaos.live.clients import Clients
from chaos.live.exposition import exposed
from chaos.live.ground import Ground, Site, Stack
from chaos.live.hint_watch import HintWatch
from chaos.live.progress import Progress
from chaos.mutants import SOURCES
from chaos.records import Record
from chaos.runs import RunStore
from chaos.scenario import Scenario
from chaos.tasks.attempt import BACKOFF
from chaos.workload import plan


@dataclass(frozen=True, slots=True)
class Order:
    """What to run. ``sources``: where the roles' code is, None: the copy of ours that the
    ground has; ``mutant``: what was changed in it. ``drain_seconds``: the drain is given up
    after so long (None: after T), what is open then stays undecided. ``targets``: the file in which
    the run is listed for Prometheus.
    """

    scenario: Scenario
    seed: int
    runs: Path
    keep: bool = False
    sources: Path | None = None
    mutant: str | None = None
    drain_seconds: float | None = None
    targets: Path | None = None


async def run(order: Order, ground: Ground) -> Report:
    """Run one scenario, judge it, and write its report.

    Raises:
        RunFailed: a process could not be brought to work, or a strike went wrong in itself.
    """
    started = time.monotonic()
    store = RunStore(order.runs)
    directory = store.new_run(order.scenario.id, order.seed, order.mutant)
    progress = Progress(order.scenario.id)
    try:
        await _Execution(order, ground, directory, progress).run()
        progress.show("judging")
        judgement = await asyncio.to_thread(filing.judge, directory)
        took = time.monotonic() - started
        report = await asyncio.to_thread(filing.report, directory, judgement, took)
    except Exception as error:
        took = time.monotonic() - started
        raise await asyncio.to_thread(
            filing.failure,
            order.scenario,
            order.seed,
            order.mutant,
            directory,
            error,
            took,
            ground.arena,
        ) from error
    finally:
        progress.close()
    store.point_latest(directory)
    if judgement.verdict == "true" and not order.keep:
        shutil.rmtree(directory / "logs")
    return report


class _Execution:
    """One run; everything its parts share."""

    def __init__(self, order: Order, ground: Ground, directory: Path, progress: Progress) -> None:
        self._order = order
        self._scenario = order.scenario.drawn(order.seed)
        self._directory = directory
        self._logs = directory / "logs"
        self._progress = progress
        self._ground = ground
        self._clock = ArenaClock()

    async def run(self) -> None:
        """Leaves ``history.jsonl`` in the directory."""
        self._logs.mkdir(parents=True)
        scratch = self._ground.directory / self._directory.name
        with (
            HistoryWriter(self._directory / "history.jsonl") as history,
            (self._logs / "journal.jsonl").open("w", encoding="utf-8") as self._journal,
        ):
            clients = Clients(scratch, self._logs / "clients.log", self._ground.reaper)
            site = Site(
                self._scenario, scratch, self._logs, self._order.sources, self._note, clients
            )
            stack = self._ground.stack(site)
            self._progress.show("starting", f"{len(self._scenario.topology.processes)} roles")
            commit = await asyncio.to_thread(_commit)
            async with stack.up(), self._loaded(stack, clients):
                watch = HintWatch(stack.redis_url)
                stack.hints = watch.hints
                async with watch.watching(), exposed(self._order.targets, stack.probes) as tell:

                    def write(record: Record) -> None:
                        history.write(record)
                        tell(record)

                    course = Course(
                        self._plan(commit), stack, self._clock, write, self._progress.show
                    )
                    await course.run()
                await course.collect()
                await asyncio.to_thread(forwarding.forward, course.exports)
        shutil.rmtree(scratch, ignore_errors=True)

    def _plan(self, commit: str | None) -> Plan:
        return Plan(
            arena=self._ground.arena,
            scenario=self._scenario,
            seed=self._order.seed,
            bound=bounds.allowed(self._scenario, BACKOFF),
            commit=commit,
            mutant=self._order.mutant,
            drain_seconds=self._order.drain_seconds,
        )

    @contextlib.asynccontextmanager
    async def _loaded(self, stack: Stack, clients: Clients) -> AsyncIterator[None]:
        operations = plan(self._scenario.workload, self._order.seed)
        clients.start(operations, stack.doors, stack.environment())
        try:
            await clients.ready()
            yield
        finally:
            await asyncio.shield(clients.stop())

    def _note(self, entry: dict[str, Any]) -> None:
        line = {"seconds": round(self._clock.now(), 4)} | entry
        self._journal.write(json.dumps(line) + "\n")
        self._journal.flush()


def _commit() -> str | None:
    """The commit of the sources; None outside a repository, or before its first one."""
    argv = ["git", "-C", str(SOURCES), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        found = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None
