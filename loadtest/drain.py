"""Measure submit rate, drain rate and start latency of no-op tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx

from loadtest.database_probe import DatabaseProbe, drained, until
from loadtest.drain_results import Figures, Round
from loadtest.http_submitter import HttpSubmitter, SubmittedTasks
from loadtest.peers.environments import default_cache
from loadtest.peers.peer_process import PeerLoad, PeerProcess, Servers
from loadtest.processes import LoadtestError
from loadtest.stack import LoadtestStack

REQUEST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class DrainSizes:
    """Sizes of a drain, whatever its handlers do; the latency phase is skipped if 0 seconds."""

    rounds: int
    workers: int
    schedulers: int
    payload_bytes: int
    latency_seconds: float


@dataclass(frozen=True, slots=True)
class DrainOptions:
    """A drain of ``tasks`` no-ops; its latency phase has ``rate`` per second.

    ``peer_tasks``: for Procrastinate in each round; 0 skips it. ``cache``: where its virtual
    environment is.
    """

    sizes: DrainSizes
    tasks: int
    peer_tasks: int
    rate: int
    cache: Path = field(default_factory=default_cache)


@dataclass(frozen=True, slots=True)
class Bench:
    """The stack under measurement, with its submitter and its probe."""

    stack: LoadtestStack
    submitter: HttpSubmitter
    probe: DatabaseProbe


async def run(options: DrainOptions, say: Callable[[str], None]) -> Figures:
    """Start a stack, measure, and stop it. ``say`` receives progress lines.

    Raises:
        LoadtestError: a figure could not be measured.
    """
    figures, sizes = Figures(), options.sizes
    peer = None
    if options.peer_tasks:
        peer = await PeerProcess.ready("procrastinate", options.cache)
    say("starting Postgres, Valkey, the API and the workers")
    workload = SubmittedTasks.sized(sizes.payload_bytes)
    async with LoadtestStack(workers=sizes.workers) as stack, bench_of(stack, workload) as bench:
        say(f"up at {stack.api_url}")
        for number in range(1, sizes.rounds + 1):
            await bench.probe.reset()
            ours = await holdfast_round(bench, options.tasks, sizes.schedulers)
            figures.holdfast.append(ours)
            say(f"round {number} of {sizes.rounds}, Holdfast: {describe(ours)}")
            if peer is not None:
                servers = Servers(stack.database_url, stack.redis_url)
                load = PeerLoad("durable", options.peer_tasks, sizes.workers, sizes.payload_bytes)
                theirs = await peer.measure(servers, load)
                figures.procrastinate.append(theirs)
                say(f"round {number} of {sizes.rounds}, Procrastinate: {describe(theirs)}")
        if sizes.latency_seconds:
            await _latency(bench, options, figures, say)
        say("stopping")
    return figures


@asynccontextmanager
async def bench_of(
    stack: LoadtestStack, tasks: SubmittedTasks | None = None
) -> AsyncIterator[Bench]:
    """Open the submitter (by default of no-op tasks) and the probe of a running stack."""
    try:
        connection = await asyncpg.connect(stack.database_url)
    except (OSError, asyncpg.PostgresError) as error:
        raise LoadtestError(f"cannot reach Postgres at {stack.database_url}: {error}") from error
    try:
        async with client_of(stack.api_url) as client:
            yield Bench(stack, HttpSubmitter(client, tasks), DatabaseProbe(connection))
    finally:
        await connection.close()


def client_of(url: str) -> httpx.AsyncClient:
    """Create a client of one API."""
    return httpx.AsyncClient(base_url=url, timeout=REQUEST_SECONDS, trust_env=False)


async def holdfast_round(
    bench: Bench, tasks: int, schedulers: int, added: Mapping[str, str] | None = None
) -> Round:
    """Store all tasks while no scheduler runs, then start ``schedulers`` and time the drain.

    ``added``: further HOLDFAST_* variables of the schedulers.

    Raises:
        LoadtestError: a task was not stored, or did not become SUCCEEDED with one effect.
    """
    submitted_seconds = await begin_round(bench, tasks, schedulers, added)
    stopwatch = await drained(tasks, bench.probe.finished, bench.stack.check)
    await bench.stack.stop("scheduler")
    await bench.probe.check_all_succeeded(tasks)
    return Round(
        tasks,
        tasks / submitted_seconds,
        stopwatch.rate,
        stopwatch.cpu_ms_per_task,
        stopwatch.cpu_ms_by_part,
    )


async def begin_round(
    bench: Bench, tasks: int, schedulers: int, added: Mapping[str, str] | None
) -> float:
    """Store all tasks, then start the schedulers; return the seconds of the submit."""
    await bench.probe.begin()
    seconds = await bench.submitter.flood(tasks)
    await bench.probe.settle()
    await bench.stack.start("scheduler", schedulers, added)
    return seconds


async def _latency(
    bench: Bench, options: DrainOptions, figures: Figures, say: Callable[[str], None]
) -> None:
    sizes = options.sizes
    await bench.probe.reset()
    await bench.stack.start("scheduler", sizes.schedulers)
    # The first tasks wait for the scheduler to start; they are excluded.
    warm_up = options.rate
    await bench.submitter.steady(options.rate, 1.0)
    await until(warm_up, bench.probe.finished, bench.stack.check)
    await bench.probe.begin()
    say(f"{options.rate} tasks/s for {sizes.latency_seconds:g} s")
    sent, late = await bench.submitter.steady(options.rate, sizes.latency_seconds)
    await until(sent, bench.probe.finished, bench.stack.check)
    await bench.stack.stop("scheduler")
    await bench.probe.check_all_succeeded(sent)
    if late > 1.0:
        say(f"requests were sent up to {late:.1f} s late: this machine cannot sustain the rate")
    title = f"due -> start at {options.rate} tasks/s"
    figures.latency[f"{title}, due at once"] = await bench.probe.latency(ahead=False)
    figures.latency[f"{title}, due 3 s ahead"] = await bench.probe.latency(ahead=True)


def describe(measured: Round) -> str:
    """Format a round in one line."""
    if measured.fault:
        return f"does not count: {measured.fault}"
    return (
        f"{measured.tasks} tasks, {measured.submitted_per_second:,.0f} submitted/s, "
        f"{measured.drained_per_second:,.0f} drained/s, "
        f"{measured.cpu_ms_per_task:.2f} ms CPU each"
    )
