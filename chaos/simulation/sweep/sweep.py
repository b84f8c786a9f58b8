"""The crash sweep: in a small scope, every message is lost once and every process dies at each.

First an undisturbed run tells which messages there are. Then each single strike has a run of its
own, under the same seed. Pairs: behind each single strike at a message that changes something, each
strike at a later message (of that disturbed run) that changes something; of these, a sample drawn
by the seed. Killing a real Postgres costs a second: of those, a sample too.
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

# Of the run and of the samples. Under this one the two tasks of two_tasks have different effects.
SEED = 2
PAIRS = "pairs of strikes at messages that change something"
# Schedules for each job of a worker process, and of those that restart a server.
_AT_ONCE, _AT_ONCE_SLOW = 8, 2


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """What to sweep. ``sample``: so many pairs; ``restarts``: so many kills of each server; both in
    each scope.
    """

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
        """All singles of every scope, then the samples; whether every verdict is true.

        Raises:
            ScenarioError: there is no such scope.
            MutantError: there is no such mutant, or it does not fit.
            WorkerFailed: a simulating process broke.
        """
        for name in self._options.scopes:
            trial.scope(name)
        return await self._with_pool(self._everything)

    async def only(self, texts: Sequence[str], *, story: bool) -> bool:
        """These schedules alone, each with what became of it.

        Raises:
            ScheduleError: this is none.
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
        behind: dict[str, list[tuple[str, list[MessageFault]]]] = {
            name: [] for name in options.scopes
        }
        for name, all_of_it in points.items():
            await self._singles(name, all_of_it, behind[name])
        for name in options.scopes:
            await self._pairs(name, behind[name])
        for name, all_of_it in points.items():
            await self._servers(name, all_of_it)

    async def _undisturbed(self, scope: str) -> list[MessagePoint]:
        job = self._job(undisturbed=scope, points=True)
        async for _, answer in self._pool.answers([job]):
            (verdict,) = _parse(answer)
            if verdict.verdict != "true":
                self._progress.show(f"{scope}, undisturbed: {verdict.verdict}", *verdict.lines)
            self._progress.begin(scope, verdict)
            return list(verdict.points)
        raise AssertionError("a job has one answer")

    async def _singles(
        self, scope: str, points: list[MessagePoint], behind: list[tuple[str, list[MessageFault]]]
    ) -> None:
        """Fills ``behind``: to the first strike of pairs, all those that may follow."""
        idle = [s for point in points if not point.changes for s in point.strikes()]
        firsts = [s for point in points if point.changes for s in point.strikes()]
        for strike in [*firsts, *idle]:
            self._progress.exists(scope, strike.kind)
        texts = [str(Schedule(scope, (strike,))) for strike in firsts]
        async for verdict in self._verdicts(texts, points=True):
            self._judged(scope, verdict)
            later = [s for point in verdict.points if point.changes for s in point.strikes()]
            behind.append((verdict.schedule, later))
        behind.sort(key=lambda pair: pair[0])
        async for verdict in self._verdicts([str(Schedule(scope, (s,))) for s in idle]):
            self._judged(scope, verdict)

    async def _pairs(self, scope: str, behind: list[tuple[str, list[MessageFault]]]) -> None:
        ends = list(accumulate(len(later) for _, later in behind))
        total = ends[-1] if ends else 0
        self._progress.exists(scope, PAIRS, total)
        rng = random.Random(f"{self._options.seed} pairs {scope}")
        texts = []
        for number in sorted(rng.sample(range(total), min(self._options.sample, total))):
            first, later = behind[place := bisect_right(ends, number)]
            texts.append(f"{first} + {later[number - ends[place]]}")
        async for verdict in self._verdicts(texts):
            self._progress.add(scope, verdict, PAIRS)
            self._complain(verdict)

    async def _servers(self, scope: str, points: list[MessagePoint]) -> None:
        every = [strike for point in points for strike in point.server_strikes()]
        for strike in every:
            self._progress.exists(scope, strike.kind)
        for kind in (MessageFaultKind.POSTGRES, MessageFaultKind.REDIS):
            those = [strike for strike in every if strike.kind is kind]
            rng = random.Random(f"{self._options.seed} {kind} {scope}")
            chosen = rng.sample(those, min(self._options.restarts, len(those)))
            texts = [str(Schedule(scope, (strike,))) for strike in chosen]
            async for verdict in self._verdicts(texts, _AT_ONCE_SLOW):
                self._judged(scope, verdict)

    def _judged(self, scope: str, verdict: Verdict) -> None:
        self._progress.add(scope, verdict, Schedule.parse(verdict.schedule).strikes[0].kind)
        self._complain(verdict)

    def _complain(self, verdict: Verdict) -> None:
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
        """As they come."""
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
