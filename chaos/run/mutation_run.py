"""Run mutants in any arena: what counts as killed, and the table of the results."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from chaos.history.records import ArenaName
from chaos.mutants import UNKNOWN, Mutant
from chaos.report.outcome import Outcome
from chaos.run.artifacts import REFUSED
from chaos.run.spec import RunSpec
from chaos.scenario import scenario as scenarios

_SAFETY_DRAIN_SECONDS = 10.0
_COLUMNS = "{:<40} {:<32} {:<20} {:>5} {:>5}"


@dataclass(frozen=True, slots=True)
class KillAttempt:
    """Runs of one mutant under consecutive seeds, until one killed it or the seeds ran out.

    ``runs``: their number; the rest describes the last one. ``killers``: the violated invariants
    that the mutant names; ``others``: further violated ones. ``doubts``: why the run proved
    nothing; ``trouble``: why it was not judged at all.
    """

    seed: int
    runs: int = 1
    killers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    doubts: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class MutantResult:
    """All attempts to kill one mutant (none: only another arena can kill it)."""

    mutant: Mutant
    attempts: tuple[KillAttempt, ...]
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether every attempt killed it."""
        return bool(self.attempts) and all(attempt.killers for attempt in self.attempts)

    @property
    def due(self) -> bool:
        """Whether it must be killed: it was attempted, and no second guard covers it."""
        return bool(self.attempts) and not self.mutant.covered_by

    @property
    def runs(self) -> float:
        """Median of the runs of an attempt."""
        return statistics.median(attempt.runs for attempt in self.attempts) if self.attempts else 0

    @property
    def outcome(self) -> str:
        """The killers, or why there are none."""
        if not self.attempts:
            return "left to simulation"
        if self.killed:
            return " ".join(dict.fromkeys(name for a in self.attempts for name in a.killers))
        last = next(attempt for attempt in self.attempts if not attempt.killers)
        if last.trouble:
            return "not judged"
        if last.others:
            return f"SURVIVED ({' '.join(last.others)})"
        if self.mutant.covered_by:
            return "covered"
        return "SURVIVED (unknown)" if last.doubts else "SURVIVED"

    @property
    def remark(self) -> str:
        """The seeds that killed it, or why none did."""
        if not self.attempts:
            return self.mutant.unlive
        seeds = ", ".join(str(attempt.seed) for attempt in self.attempts)
        text = f"seed {seeds}" if len(self.attempts) == 1 else f"seeds {seeds}"
        last = self.attempts[-1]
        return text if last.killers else last.trouble or last.doubts or text

    def row(self) -> str:
        """One line of the table."""
        name, scenario, runs = self.mutant.name, self.mutant.scenario, f"{self.runs:g}"
        return _COLUMNS.format(name, scenario, self.outcome, runs, f"{self.seconds:.0f}")


class MutationReport:
    """Prints each result, and at the end the table in the order of ``mutants``."""

    def __init__(self, mutants: Sequence[Mutant]) -> None:
        self._mutants = mutants
        self._all: dict[str, MutantResult] = {}
        self._started = time.monotonic()

    def add(self, result: MutantResult) -> None:
        """Record and print the result of one mutant."""
        self._all[result.mutant.name] = result
        typer.echo(f"{result.row()}  {result.remark}".rstrip())

    def close(self) -> bool:
        """Print the table; return whether each mutant that must be killed was killed."""
        typer.echo(f"\n{_COLUMNS.format('mutant', 'scenario', 'killed by', 'runs', 's')}")
        results = [self._all[m.name] for m in self._mutants if m.name in self._all]
        for result in results:
            typer.echo(result.row())
        due = [result for result in results if result.due]
        killed = sum(result.killed for result in due)
        covered = sum(bool(result.attempts) for result in results) - len(due)
        hidden = len(results) - len(due) - covered
        rest = f", {hidden} left to simulation" if hidden else ""
        typer.echo(
            f"{killed} of {len(due)} killed, {covered} covered by a second guard{rest}, "
            f"in {time.monotonic() - self._started:.0f} s"
        )
        return killed == len(due) and len(results) == len(self._mutants)


async def run_mutants(
    mutants: Sequence[Mutant],
    attempts: Callable[[Mutant], Awaitable[tuple[KillAttempt, ...]]],
    parallel: int = 1,
) -> bool:
    """Attempt each mutant, ``parallel`` at a time; whether each that must be killed was killed."""
    report, todo = MutationReport(mutants), iter(mutants)

    async def work() -> None:
        for mutant in todo:
            started = time.monotonic()
            found = await attempts(mutant)
            report.add(MutantResult(mutant, found, time.monotonic() - started))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(parallel):
                group.create_task(work())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return report.close()


async def until_killed(
    seeds: Iterable[int], attempt: Callable[[int], Awaitable[KillAttempt]]
) -> KillAttempt:
    """Attempt seed after seed (at least one), until the mutant is killed."""
    last: KillAttempt | None = None
    for n, seed in enumerate(seeds, start=1):
        last = replace(await attempt(seed), runs=n)
        if last.killers:
            break
    if last is None:
        raise ValueError("no seed to run the mutant under")
    return last


def attempt_of(mutant: Mutant, outcome: Outcome, *, crashed: bool = False) -> KillAttempt:
    """Return what one run means for the mutant.

    A run that is unknown kills only a mutant of the harness, and only by a doubt of the checker, or
    by a refusal of the harness itself: one that ``crashed`` otherwise does not show that its
    verdict would have told.
    """
    broken = outcome.laws or {}
    refused = any(doubt.startswith(REFUSED) for doubt in outcome.doubts)
    told = not crashed or refused
    doubted = mutant.of_harness and outcome.verdict == UNKNOWN and told
    found = (*broken, *([UNKNOWN] if doubted else []))
    return KillAttempt(
        outcome.seed,
        killers=tuple(name for name in found if name in mutant.killers),
        others=tuple(name for name in broken if name not in mutant.killers),
        doubts="; ".join(outcome.doubts),
    )


def mutant_spec(arena: ArenaName, mutant: Mutant, seed: int, runs: Path, *, keep: bool) -> RunSpec:
    """Return the run of the mutant's scenario under one seed."""
    return RunSpec(
        arena,
        scenarios.find(mutant.scenario),
        seed,
        runs,
        keep=keep,
        mutant=mutant.name,
        drain_seconds=drain_seconds(mutant),
    )


def drain_seconds(mutant: Mutant) -> float | None:
    """Limit the drain, unless the mutant breaks liveness: a safety law is broken soon or never.

    Tasks left undecided would make a run unknown, so that any harness mutant would be killed.
    """
    if UNKNOWN in mutant.killers:
        return None
    return _SAFETY_DRAIN_SECONDS if any(law[0] == "S" for law in mutant.killers) else None
