"""One scenario on the real stack: start, break, heal, drain, collect, judge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from chaos import bounds
from chaos.history import HistoryError, HistoryWriter
from chaos.live.clients import Clients
from chaos.live.nemesis import Nemesis
from chaos.live.progress import Progress
from chaos.live.sightings import HintWatch, SeenHint, sightings
from chaos.live.topology import SOURCES, Foundation, Stack
from chaos.live.witness import WitnessAway, instant
from chaos.records import Phase, Record, Run, SinkCall
from chaos.report import files
from chaos.report.outcome import Outcome, outcome
from chaos.runs import RunStore
from chaos.scenario import Scenario
from chaos.sink import read_calls
from chaos.tasks.attempt import BACKOFF
from chaos.verdict import Judgement, check_file
from chaos.workload import plan

_POLL_SECONDS = 0.1
# A client that waits for its last answers, and its last resends, after the planned end.
_LOAD_GRACE_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Order:
    """What to run. ``sources``: where the roles' code is, None: the copy of ours that the
    foundation has; ``mutant``: what was changed in it. ``drain_seconds``: the drain is given up
    after so long (None: after T), what is open then stays undecided.
    """

    scenario: Scenario
    seed: int
    runs: Path
    keep: bool = False
    sources: Path | None = None
    mutant: str | None = None
    drain_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A judged run. ``directory`` has its history, and its logs if they were kept."""

    judgement: Judgement
    directory: Path
    seconds: float

    @property
    def outcome(self) -> Outcome:
        """What a list of runs says of it."""
        return outcome(self.judgement, seconds=self.seconds, directory=self.directory.name)


class LoadTooLong(Exception):
    """The clients did not come to an end."""


class RunFailed(Exception):
    """The harness itself failed, which proves nothing; ``outcome`` names the directory with what
    was recorded until then, ``reasons`` are lines of text.
    """

    def __init__(self, reasons: list[str], outcome: Outcome) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons
        self.outcome = outcome


async def run(order: Order, foundation: Foundation) -> Report:
    """Run one scenario, judge it, and write its report.

    Raises:
        RunFailed: a process could not be brought to work, or a strike went wrong in itself.
    """
    started = time.monotonic()
    store = RunStore(order.runs)
    directory = store.new_run(order.scenario.id, order.seed, order.mutant)
    progress = Progress(order.scenario.id)
    try:
        await _Execution(order, foundation, directory, progress).run()
        progress.show("judging")
        judgement = await asyncio.to_thread(check_file, directory / files.HISTORY)
        report = Report(judgement, directory, time.monotonic() - started)
        await asyncio.to_thread(files.write_run, directory, judgement, report.seconds)
    except Exception as error:
        reasons = _reasons(error)
        failed = await asyncio.to_thread(
            _write_failure, order, directory, reasons, time.monotonic() - started
        )
        raise RunFailed(reasons, failed) from error
    finally:
        progress.close()
    store.point_latest(directory)
    if judgement.verdict == "true" and not order.keep:
        shutil.rmtree(directory / "logs")
    return report


def _write_failure(order: Order, directory: Path, reasons: list[str], seconds: float) -> Outcome:
    """What was recorded until the harness failed is shown as far as it can be read."""
    doubts = tuple(f"the harness failed: {reason}" for reason in reasons)
    try:
        judgement = check_file(directory / files.HISTORY)
    except (HistoryError, OSError):
        failed = Outcome(
            scenario=order.scenario.id,
            seed=order.seed,
            verdict="unknown",
            mutant=order.mutant,
            seconds=seconds,
            directory=directory.name,
            doubts=doubts,
        )
        files.write_failure(directory, failed)
        return failed
    verdict = "unknown" if judgement.verdict == "true" else judgement.verdict
    told = replace(judgement, verdict=verdict, doubts=(*doubts, *judgement.doubts))
    return files.write_run(directory, told, seconds)


def _reasons(error: BaseException) -> list[str]:
    """The leaves of an exception group, each as its lines."""
    if isinstance(error, BaseExceptionGroup):
        return [line for each in error.exceptions for line in _reasons(each)]
    return [f"{type(error).__name__}: {line}" for line in str(error).splitlines() or [""]]


class _Execution:
    """The phases of one run; everything they share."""

    def __init__(
        self, order: Order, foundation: Foundation, directory: Path, progress: Progress
    ) -> None:
        self._order = order
        self._scenario = order.scenario.drawn(order.seed)
        self._directory = directory
        self._logs = directory / "logs"
        self._progress = progress
        self._foundation = foundation
        self._zero = time.time()
        self._bound = bounds.allowed(self._scenario, BACKOFF)
        self._hints: list[SeenHint] = []
        self._epoch = ""

    async def run(self) -> None:
        """Leaves ``history.jsonl`` in the directory."""
        self._logs.mkdir(parents=True)
        scratch = self._foundation.directory / self._directory.name
        with (
            HistoryWriter(self._directory / "history.jsonl") as self._history,
            (self._logs / "journal.jsonl").open("w", encoding="utf-8") as self._journal,
        ):
            stack = Stack(
                scenario=self._scenario,
                foundation=self._foundation,
                directory=scratch,
                logs=self._logs,
                sources=self._order.sources or self._foundation.sources,
                journal=self._note,
                database=f"run_{time.time_ns()}",
            )
            self._progress.show("starting", f"{len(self._scenario.topology.processes)} roles")
            clients = Clients(scratch, self._logs / "clients.log", self._foundation.guardian)
            async with stack.up(), self._loaded(stack, clients):
                watch = HintWatch(stack.valkey.url())
                self._hints = watch.hints
                async with watch.watching():
                    await self._begin(stack, clients)
                    await self._break(stack, clients)
                    await self._heal(stack, clients)
                    await self._drain(stack, clients)
                await self._collect(stack, clients)
        shutil.rmtree(scratch, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def _loaded(self, stack: Stack, clients: Clients) -> AsyncIterator[None]:
        operations = plan(self._scenario.workload, self._order.seed)
        doors = [port for edge, port in stack.ports.items() if edge.startswith("client->")]
        clients.start(operations, doors, stack.environment())
        try:
            await clients.ready()
            yield
        finally:
            await asyncio.shield(clients.stop())

    async def _begin(self, stack: Stack, clients: Clients) -> None:
        # One machine, one clock: arena second 0 is an instant that both sides know exactly.
        epoch = await stack.witness.clock()
        self._zero = epoch.timestamp()
        self._epoch = instant(epoch)
        self._write(
            Run(
                scenario=self._scenario.document,
                seed=self._order.seed,
                arena="live",
                database_epoch=self._epoch,
                bound=self._bound,
                settings=dict(self._scenario.topology.settings),
                commit=await asyncio.to_thread(_commit),
                mutant=self._order.mutant,
            )
        )
        self._phase("faults", at=0.0)
        clients.go(self._zero)

    async def _break(self, stack: Stack, clients: Clients) -> None:
        """The load, and the faults meanwhile; returns when both are over."""
        nemesis = Nemesis(stack, self._order.seed, self._now, self._write)

        async def load() -> None:
            limit = self._scenario.workload.seconds + _LOAD_GRACE_SECONDS
            try:
                await asyncio.wait_for(clients.done(), limit)
            except TimeoutError:
                raise LoadTooLong(f"the clients were still busy after {limit:.0f} s") from None
            await asyncio.sleep(self._scenario.workload.last_due_seconds - self._now())
            nemesis.load_over()

        async with self._watched("faults", stack, clients):
            await _all_or_first_error(load(), nemesis.run())

    async def _heal(self, stack: Stack, clients: Clients) -> None:
        async with self._watched("healing", stack, clients):
            core = self._scenario.core(self._order.seed)
            stack.abandon(core)
            await stack.proxies.heal(core)
            await asyncio.gather(*(stack.actors[name].ready(patient=True) for name in core))
        self._phase("healed", core=core)

    async def _drain(self, stack: Stack, clients: Clients) -> None:
        """Until all tasks are terminal, or T is over and then some of the rest is due."""
        longest = self._bound.seconds + 1.0
        asked = self._order.drain_seconds
        give_up = time.monotonic() + (longest if asked is None else min(longest, asked))
        async with self._watched("draining", stack, clients):
            while (await stack.witness.counts()).open and time.monotonic() < give_up:
                await asyncio.sleep(_POLL_SECONDS)

    async def _collect(self, stack: Stack, clients: Clients) -> None:
        """Everybody's testimony, read when no role is there any more to change it."""
        self._progress.show("reading")
        await stack.stop_roles()
        self._write(*clients.operations())
        testimony = await stack.witness.testimony()
        self._write(*testimony, *sightings(self._hints, testimony, self._logs, self._epoch))
        for call in read_calls(stack.sink_log):
            self._write(
                SinkCall(
                    at=call.at - self._zero,
                    key=call.key,
                    task_id=call.task_id or call.key,
                    epoch=call.epoch or 0,
                    applied=call.applied,
                )
            )
        self._phase("drained")

    @contextlib.asynccontextmanager
    async def _watched(self, phase: str, stack: Stack, clients: Clients) -> AsyncIterator[None]:
        """Progress is shown inside the block."""

        async def keep_showing() -> None:
            while True:
                with contextlib.suppress(WitnessAway):
                    counts = await stack.witness.counts()
                    detail = f"answered {clients.answered()}, terminal {counts.terminal}, in flight"
                    detail += f" {counts.open}, stale writes refused {counts.stale_writes}"
                    self._progress.show(phase, detail)
                await asyncio.sleep(2 * _POLL_SECONDS)

        task = asyncio.create_task(keep_showing(), name="progress")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _now(self) -> float:
        return time.time() - self._zero

    def _phase(
        self,
        phase: Literal["faults", "healed", "drained"],
        at: float | None = None,
        core: tuple[str, ...] = (),
    ) -> None:
        self._write(Phase(phase=phase, at=self._now() if at is None else at, core=core))

    def _write(self, *records: Record) -> None:
        self._history.write(*records)

    def _note(self, entry: dict[str, Any]) -> None:
        line = {"seconds": round(self._now(), 4)} | entry
        self._journal.write(json.dumps(line) + "\n")
        self._journal.flush()


async def _all_or_first_error(*work: Any) -> None:
    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(each)


def _commit() -> str | None:
    """The commit of the sources; None outside a repository, or before its first one."""
    argv = ["git", "-C", str(SOURCES), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        found = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None
