"""Profile submit and drain separately: statements in Postgres, functions in Python."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadtest.database_probe import drained, until
from loadtest.drain import Bench, bench_of
from loadtest.http_submitter import SubmittedTasks
from loadtest.machine import Machine
from loadtest.process_stats import processes
from loadtest.processes import LoadtestError
from loadtest.sampling import PySpySampler, Sampled
from loadtest.stack import LoadtestStack
from loadtest.statements import StatementCost, StatementCosts, preload, statement_costs

TOP = 12
TEXT = 110


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """``python``: also sample functions; ``extension``: use pg_stat_statements if available."""

    out: Path
    tasks: int = 30_000
    workers: int = 2
    payload_bytes: int = 256
    python: bool = True
    extension: bool = True


@dataclass(frozen=True, slots=True)
class ProfilePhase:
    """What was executed while ``tasks`` were submitted or drained."""

    name: str
    tasks: int
    seconds: float
    statements: list[StatementCost]
    sampled: list[Sampled]

    def lines(self) -> list[str]:
        """Return it as lines of text."""
        rate = self.tasks / self.seconds
        head = f"== {self.name}: {self.tasks:,} tasks in {self.seconds:.1f} s, {rate:,.0f}/s"
        columns = f"{'calls/task':>12}{'rows/task':>11}{'us/task':>9}{'WAL B/task':>12}"
        statements = [
            f"{each.share:7.1%}{self._per_task(each)}  {each.label[:TEXT]}"
            for each in self.statements[:TOP]
        ]
        lines = ["", head, f"{'share':>7}{columns}", *statements]
        for process in self.sampled:
            head = f"-- {self.name}, {process.role}: {process.samples} samples, idle ones excluded"
            functions = [
                f"{each.own:7.1%}{each.total:8.1%}  {each.name}" for each in process.functions[:TOP]
            ]
            lines += ["", head, f"{'own':>7}{'total':>8}", *functions]
        return lines

    def _per_task(self, statement: StatementCost) -> str:
        if statement.calls is None:
            return " " * 44
        microseconds = (statement.milliseconds or 0.0) * 1000 / self.tasks
        return (
            f"{statement.calls / self.tasks:12.4f}{(statement.rows or 0) / self.tasks:11.2f}"
            f"{microseconds:9.1f}{(statement.wal_bytes or 0) / self.tasks:12,.0f}"
        )


@dataclass(slots=True)
class Profile:
    """All phases of one run. ``exact``: measured by pg_stat_statements, not sampled."""

    machine: Machine
    exact: bool
    phases: list[ProfilePhase] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return it as lines of text."""
        how = (
            "Statements: measured by pg_stat_statements."
            if self.exact
            else "Statements: sampled without pg_stat_statements, as shares of the active ones in "
            "pg_stat_activity every 10 ms."
        )
        lines = [how, *(line for phase in self.phases for line in phase.lines())]
        warning = self.machine.warning()
        return lines + (["", f"note: {warning}"] if warning else [])

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return asdict(self)


async def run(options: ProfileOptions, say: Callable[[str], None]) -> Profile:
    """Profile one submit and its drain; write ``profile.json`` and folded stacks to ``out``.

    Raises:
        LoadtestError: py-spy may not attach to a process, or a task did not succeed.
    """
    machine = Machine.now()
    options.out.mkdir(parents=True, exist_ok=True)
    say("starting Postgres, Valkey, the API and the workers")
    async with LoadtestStack(workers=options.workers) as stack:
        exact = options.extension and await preload(stack)
        profile = Profile(machine, exact)
        async with (
            bench_of(stack, SubmittedTasks.sized(options.payload_bytes)) as bench,
            statement_costs(stack, exact=exact) as statements,
        ):
            profile.phases.append(await _submit(bench, statements, options, say))
            profile.phases.append(await _drain(bench, statements, options, say))
        say("stopping")
    content = json.dumps(profile.as_json(), indent=2) + "\n"
    (options.out / "profile.json").write_text(content, encoding="utf-8")
    return profile


async def _submit(
    bench: Bench, statements: StatementCosts, options: ProfileOptions, say: Callable[[str], None]
) -> ProfilePhase:
    say(f"submitting {options.tasks:,} tasks")
    await bench.probe.begin()
    async with _sampling("submit", ["api"], options) as sampled:
        await statements.begin()
        seconds = await bench.submitter.flood(options.tasks)
        found = await statements.end()
    await bench.probe.settle()
    return ProfilePhase("submit", options.tasks, seconds, found, sampled)


async def _drain(
    bench: Bench, statements: StatementCosts, options: ProfileOptions, say: Callable[[str], None]
) -> ProfilePhase:
    say("draining")
    await statements.begin()
    await bench.stack.start("scheduler", 1)
    # From the first task on, to exclude the start of the interpreters.
    await until(1, bench.probe.finished, bench.stack.check)
    async with _sampling("drain", ["scheduler", "worker"], options) as sampled:
        stopwatch = await drained(options.tasks, bench.probe.finished, bench.stack.check)
    found = await statements.end()
    await bench.stack.stop("scheduler")
    await bench.probe.check_all_succeeded(options.tasks)
    return ProfilePhase("drain", options.tasks, options.tasks / stopwatch.rate, found, sampled)


@asynccontextmanager
async def _sampling(
    phase: str, roles: list[str], options: ProfileOptions
) -> AsyncIterator[list[Sampled]]:
    """Sample one process of each role; the yielded list is filled at the end of the block."""
    sampled: list[Sampled] = []
    samplers: list[PySpySampler] = []
    try:
        if options.python:
            running = processes()
            for role in roles:
                if not running.get(role):
                    raise LoadtestError(f"no {role} process found")
                file = options.out / f"{phase}-{role}.folded"
                samplers.append(PySpySampler(role, running[role][-1].pid, file))
                await samplers[-1].start()
        yield sampled
        sampled += [await sampler.stop() for sampler in samplers]
    finally:
        for sampler in samplers:
            await sampler.abandon()
