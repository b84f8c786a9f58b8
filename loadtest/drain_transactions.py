"""Measure effects in SQL: handlers that INSERT by ``ctx.transaction()``, beside bare asyncpg.

Both insert the same rows into the same table over the same number of connections, in turns.
"""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loadtest.database_probe import until
from loadtest.drain import Bench, DrainSizes, bench_of, client_of, describe, holdfast_round
from loadtest.drain_results import Round
from loadtest.http_submitter import HttpSubmitter, SubmittedTasks
from loadtest.inserts import APPLICATION, COUNT, CREATE, NAME, TRUNCATE
from loadtest.process_stats import cpu_seconds_by_part
from loadtest.processes import LoadtestError, end, spawn
from loadtest.stack import LoadtestStack
from loadtest.transaction_results import BareRound, Durations, TransactionFigures

CONNECTIONS = 10  # of each worker: the default of HOLDFAST_TRANSACTION_CONNECTIONS


@dataclass(frozen=True, slots=True)
class TransactionOptions:
    """A drain of ``tasks`` transactions; its latency phase has ``rate`` per second."""

    sizes: DrainSizes
    tasks: int
    rate: int


async def run(options: TransactionOptions, say: Callable[[str], None]) -> TransactionFigures:
    """Start a stack, measure, and stop it. ``say`` receives progress lines.

    Raises:
        LoadtestError: a figure could not be measured, or an effect is missing or doubled.
    """
    figures, rounds = TransactionFigures(), options.sizes.rounds
    workload = SubmittedTasks.sized(options.sizes.payload_bytes, NAME)
    say("starting Postgres, Valkey, the API and the workers")
    async with (
        LoadtestStack(workers=options.sizes.workers, application=APPLICATION) as stack,
        bench_of(stack, workload) as bench,
    ):
        say(f"up at {stack.api_url}")
        await bench.probe.connection.execute(CREATE)
        for number in range(1, rounds + 1):
            bare = await _bare_round(bench, options)
            figures.bare.append(bare)
            say(f"round {number} of {rounds}, bare: {bare.per_second:,.0f} transactions/s")
            ours = await _holdfast_round(bench, options)
            figures.holdfast.append(ours)
            say(f"round {number} of {rounds}, Holdfast: {describe(ours)}")
        if options.sizes.latency_seconds:
            say(f"{options.rate} of each per second for {options.sizes.latency_seconds:g} s")
            await _empty(bench)
            figures.sql, figures.handler = await asyncio.gather(
                _bare_latency(bench, options), _handler_latency(bench, options, workload)
            )
        say("stopping")
    return figures


async def _holdfast_round(bench: Bench, options: TransactionOptions) -> Round:
    await _empty(bench)
    measured = await holdfast_round(bench, options.tasks, options.sizes.schedulers)
    inserted = await bench.probe.connection.fetchval(COUNT)
    if inserted != options.tasks:
        raise LoadtestError(f"{options.tasks} tasks succeeded, but left {inserted} rows")
    return measured


async def _empty(bench: Bench) -> None:
    await bench.probe.reset()
    await bench.probe.connection.execute(TRUNCATE)


async def _bare_round(bench: Bench, options: TransactionOptions) -> BareRound:
    await _empty(bench)
    async with _bare(bench, options, options.tasks, 0) as process:
        before = cpu_seconds_by_part()
        measured = await _figures(process)
        after = cpu_seconds_by_part()
    spent = {part: seconds - before.get(part, 0.0) for part, seconds in after.items()}
    cpu = {part: seconds * 1000 / options.tasks for part, seconds in spent.items()}
    return BareRound(options.tasks, options.tasks / measured["seconds"], cpu)


async def _bare_latency(bench: Bench, options: TransactionOptions) -> Durations:
    count = round(options.rate * options.sizes.latency_seconds)
    async with _bare(bench, options, count, options.rate) as process:
        measured = await _figures(process)
    return Durations(**measured["each"])


@asynccontextmanager
async def _bare(
    bench: Bench, options: TransactionOptions, count: int, rate: int
) -> AsyncIterator[Process]:
    """Connect the bare transactions; they begin with the first ``_figures``."""
    size = len(SubmittedTasks.sized(options.sizes.payload_bytes).payload["filler"])
    sizes = (count, options.sizes.workers * CONNECTIONS, size, rate)
    arguments = ["loadtest.bare_inserts", bench.stack.database_url, *map(str, sizes)]
    process = await spawn(arguments, {}, stdin=PIPE, stdout=PIPE)
    try:
        assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
        if await process.stdout.readline() != b"ready\n":
            raise LoadtestError("the bare transactions did not start, see their output above")
        yield process
    finally:
        await end(process)


async def _figures(process: Process) -> dict[str, Any]:
    """Let the bare transactions run; return their figures."""
    assert process.stdin is not None  # noqa: S101 - it was opened as a pipe
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(b"go\n")
    line = await process.stdout.readline()
    if not line:
        raise LoadtestError("the bare transactions failed, see their output above")
    return dict(json.loads(line))


async def _handler_latency(
    bench: Bench, options: TransactionOptions, workload: SubmittedTasks
) -> Durations:
    """Return the durations of the handler, which writes them into a file."""
    file = bench.stack.directory / "durations"
    timed = replace(workload, payload={**workload.payload, "durations": str(file)})
    async with client_of(bench.stack.api_url) as client:
        submitter = HttpSubmitter(client, timed)
        await bench.probe.begin()
        await bench.stack.start("scheduler", options.sizes.schedulers)
        sent, _ = await submitter.steady(options.rate, options.sizes.latency_seconds)
        await until(sent, bench.probe.finished, bench.stack.check)
        await bench.stack.stop("scheduler")
    await bench.probe.check_all_succeeded(sent)
    return Durations.of([float(line) for line in _lines(file)])


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()
