"""Run the crash sweep: in a small scope, lose every message once and kill every process at each.

An undisturbed run yields the messages. Each single fault then has its own run under the same seed.
A pair is a single fault at a message that changes something, followed by a fault at a later message
of that disturbed run that changes something; the seed draws a sample of the pairs. Killing a real
Postgres takes a second, so kills of servers are sampled too.
"""

from __future__ import annotations

import random
import tempfile
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from chaos.mutants import SOURCES, find, plant
from chaos.simulation.suite.pool import Pool
from chaos.simulation.sweep import trial
from chaos.simulation.sweep.message_faults import (
    MessageFault,
    MessageFaultKind,
    MessagePoint,
    Schedule,
)
from chaos.simulation.sweep.progress import SweepProgress
from chaos.simulation.sweep.trial import Verdict

# Default seed of runs and samples. With it, the two tasks of two_tasks have different effects.
SEED = 2
PAIRS = "pairs of faults at messages that change something"
# Schedules per job of a worker process, and per job if they restart a server.
_AT_ONCE, _AT_ONCE_SLOW = 8, 2


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """What to sweep. ``sample``: pairs per scope; ``restarts``: kills of each server per scope."""

    runs: Path
    processes: int
    scopes: tuple[str, ...]
    seed: int = SEED
    sample: int = 500
    restarts: int = 20
    mutant: str | None = None
    keep: bool = False


class Sweep:
    """Runs schedules on all cores, prints those that are not true and, at the end, a table."""

    def __init__(self, options: SweepOptions) -> None:
        self._options = options
        self._progress = SweepProgress()
        self._pool = Pool(options.processes)

    async def run(self) -> bool:
        """Run all single faults of every scope, then the samples; return whether all are true.

        Raises:
            ScenarioError: a scope does not exist.
            MutantError: the mutant does not exist or does not match the sources.
            WorkerFailed: a worker process failed.
        """
        for name in self._options.scopes:
            trial.scope(name)
        return await self._with_pool(self._everything)

    async def only(self, texts: Sequence[str], *, story: bool) -> bool:
        """Run only these schedules and print each with its verdict.

        Raises:
            ScheduleError: a text is not a schedule.
            ScenarioError, MutantError, WorkerFailed: as ``run``.
        """

        async def these() -> None:
            async for verdict in self._verdicts(texts, 1, keep=True, story=story):
                self._progress.show(f"{verdict.verdict}  {verdict.schedule}", *verdict.lines)
                self._progress.add("given", verdict)

        for text in texts:
            trial.scope(Schedule.parse(text).scope)
        return await self._with_pool(these)

    async def _with_pool(self, work: Any) -> bool:
        options = self._options
        with tempfile.TemporaryDirectory(prefix="holdfast-mutant-") as tree:
            sources = plant(find(options.mutant), SOURCES, Path(tree)) if options.mutant else None
            self._pool = Pool(options.processes, sources)
            try:
                async with self._pool.up():
                    await work()
            finally:
                self._progress.close()
        return self._progress.all_true

    async def _everything(self) -> None:
        options = self._options
        points = {name: await self._undisturbed(name) for name in options.scopes}
        followers: dict[str, list[tuple[str, list[MessageFault]]]] = {
            name: [] for name in options.scopes
        }
        for name, every_point in points.items():
            await self._singles(name, every_point, followers[name])
        for name in options.scopes:
            await self._pairs(name, followers[name])
        for name, every_point in points.items():
            await self._servers(name, every_point)

    async def _undisturbed(self, scope: str) -> list[MessagePoint]:
        job = self._job(undisturbed=scope, points=True)
        async for _, answer in self._pool.answers([job]):
            (verdict,) = _parse(answer)
            if verdict.verdict != "true":
                self._progress.show(f"{scope}, undisturbed: {verdict.verdict}", *verdict.lines)
            self._progress.begin(scope, verdict)
            return list(verdict.points)
        raise AssertionError("a job has exactly one answer")

    async def _singles(
        self,
        scope: str,
        points: list[MessagePoint],
        followers: list[tuple[str, list[MessageFault]]],
    ) -> None:
        """Run all single faults.

        Fill ``followers`` with each first fault of a pair and its possible second ones.
        """
        idle = [s for point in points if not point.changes for s in point.faults()]
        firsts = [s for point in points if point.changes for s in point.faults()]
        for fault in [*firsts, *idle]:
            self._progress.exists(scope, fault.kind)
        texts = [str(Schedule(scope, (fault,))) for fault in firsts]
        async for verdict in self._verdicts(texts, points=True):
            self._judged(scope, verdict)
            later = [s for point in verdict.points if point.changes for s in point.faults()]
            followers.append((verdict.schedule, later))
        followers.sort(key=lambda pair: pair[0])
        async for verdict in self._verdicts([str(Schedule(scope, (s,))) for s in idle]):
            self._judged(scope, verdict)

    async def _pairs(self, scope: str, followers: list[tuple[str, list[MessageFault]]]) -> None:
        ends = list(accumulate(len(later) for _, later in followers))
        total = ends[-1] if ends else 0
        self._progress.exists(scope, PAIRS, total)
        rng = random.Random(f"{self._options.seed} pairs {scope}")
        texts = []
        for number in sorted(rng.sample(range(total), min(self._options.sample, total))):
            first, later = followers[place := bisect_right(ends, number)]
            texts.append(f"{first} + {later[number - ends[place]]}")
        async for verdict in self._verdicts(texts):
            self._progress.add(scope, verdict, PAIRS)
            self._report(verdict)

    async def _servers(self, scope: str, points: list[MessagePoint]) -> None:
        every = [fault for point in points for fault in point.server_faults()]
        for fault in every:
            self._progress.exists(scope, fault.kind)
        for kind in (MessageFaultKind.POSTGRES, MessageFaultKind.REDIS):
            of_kind = [fault for fault in every if fault.kind is kind]
            rng = random.Random(f"{self._options.seed} {kind} {scope}")
            chosen = rng.sample(of_kind, min(self._options.restarts, len(of_kind)))
            texts = [str(Schedule(scope, (fault,))) for fault in chosen]
            async for verdict in self._verdicts(texts, _AT_ONCE_SLOW):
                self._judged(scope, verdict)

    def _judged(self, scope: str, verdict: Verdict) -> None:
        self._progress.add(scope, verdict, Schedule.parse(verdict.schedule).faults[0].kind)
        self._report(verdict)

    def _report(self, verdict: Verdict) -> None:
        if verdict.verdict != "true":
            options = self._options
            seed = f" --seed {options.seed}" if options.seed != SEED else ""
            mutant = f" --mutant {options.mutant}" if options.mutant else ""
            replay = f'python -m chaos sweep --only "{verdict.schedule}"{seed}{mutant}'
            self._progress.show(
                f"{verdict.verdict}  {verdict.schedule}", *verdict.lines, f"  replay: {replay}"
            )

    async def _verdicts(
        self, texts: Sequence[str], at_once: int = _AT_ONCE, **options: Any
    ) -> AsyncIterator[Verdict]:
        """Run the schedules and yield their verdicts in order of completion."""
        self._progress.expect(len(texts))
        jobs = [
            self._job(schedules=texts[start : start + at_once], **options)
            for start in range(0, len(texts), at_once)
        ]
        async for _, answer in self._pool.answers(jobs):
            for verdict in _parse(answer):
                yield verdict

    def _job(self, **what: Any) -> dict[str, Any]:
        options = self._options
        job = {"job": "sweep", "seed": options.seed, "runs": str(options.runs.absolute())}
        return job | {"mutant": options.mutant, "keep": options.keep} | what


def _parse(answer: dict[str, Any]) -> Iterator[Verdict]:
    for document in answer["verdicts"]:
        points = tuple(MessagePoint(**point) for point in document.pop("points"))
        yield Verdict(**document | {"points": points, "lines": tuple(document["lines"])})
