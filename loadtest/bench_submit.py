"""Measure submits: singly, in batches and by ``enqueue``; and task latency on an idle system."""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from loadtest.drain import Bench, bench_of
from loadtest.drain_results import spread
from loadtest.http_submitter import BATCH, IN_FLIGHT, SubmittedTasks
from loadtest.inserts import payload_filler
from loadtest.processes import LoadtestError, end, spawn
from loadtest.stack import LoadtestStack

_SCRIPT = Path(__file__).with_name("post.lua")
_WRK_MISSING = (
    "wrk is not on PATH: single requests need a load generator that is faster than the API "
    "(Debian: apt-get install wrk; macOS: brew install wrk); --no-wrk skips them"
)
_IDLE_TASKS = 200
_POLL_SECONDS = 0.002
_DEADLINE_SECONDS = 60.0

Output = dict[str, float]


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """``seconds`` and ``connections`` are wrk's. ``tasks`` and ``singly`` count the tasks per round
    by ``enqueue_many`` and ``enqueue``; without ``wrk``, ``tasks`` also counts those in batches.
    """

    rounds: int = 3
    seconds: float = 8.0
    connections: int = 64
    tasks: int = 30_000
    singly: int = 3_000
    wrk: bool = True
    payload_bytes: int = 256


@dataclass(slots=True)
class Rates:
    """Rates in tasks per second per round; latencies (``posted_p*``, ``idle``) in seconds."""

    posted: list[float] = field(default_factory=list)
    posted_p50: list[float] = field(default_factory=list)
    posted_p99: list[float] = field(default_factory=list)
    batched: list[float] = field(default_factory=list)
    batched_by_two: list[float] = field(default_factory=list)
    singly: list[float] = field(default_factory=list)
    together: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return medians and, in brackets, ranges over the rounds as lines of text."""
        rows = [
            ("POST /tasks/ (wrk)", self.posted),
            (f"POST /tasks/batch, {BATCH} in a request", self.batched),
            ("the same, two API processes", self.batched_by_two),
            ("enqueue(), a transaction each", self.singly),
            (f"enqueue_many(), {BATCH} in a transaction", self.together),
        ]
        lines = [f"{name:42}{spread(rates):>26} tasks/s" for name, rates in rows if rates]
        if self.posted:
            median, late = (
                spread([1000 * each for each in seconds], " ms", 1)
                for seconds in (self.posted_p50, self.posted_p99)
            )
            lines.append(f"{'a single POST':42}p50 {median}, p99 {late}")
        idle = [1000 * seconds for seconds in self.idle]
        p99 = statistics.quantiles(idle, n=100)[98]
        lines.append(
            f"{'idle: submitted -> SUCCEEDED':42}p50 {statistics.median(idle):.1f} ms, "
            f"p99 {p99:.1f} ms over {len(idle)} tasks"
        )
        return lines


async def run(options: SubmitOptions, say: Callable[[str], None]) -> Rates:
    """Start a stack, measure, and stop it.

    Raises:
        LoadtestError: a figure could not be measured.
    """
    wrk = shutil.which("wrk") if options.wrk else None
    if options.wrk and wrk is None:
        raise LoadtestError(_WRK_MISSING)
    rates = Rates()
    say("starting Postgres, Valkey, the API and a worker")
    workload = SubmittedTasks.sized(options.payload_bytes)
    async with LoadtestStack(workers=1) as stack, bench_of(stack, workload) as bench:
        apis = [stack.api_url, await stack.start_api()] if wrk else []
        for number in range(1, options.rounds + 1):
            if wrk is None:
                await bench.probe.reset()
                rates.batched.append(options.tasks / await bench.submitter.flood(options.tasks))
            else:
                generator = Wrk(wrk, bench, options.seconds, payload_filler(options.payload_bytes))
                await _post(generator, apis, options.connections, rates)
            await bench.probe.reset()
            await _enqueue(bench, options, rates)
            say(f"round {number} of {options.rounds}: {rates.batched[-1]:,.0f} tasks/s in batches")
        await bench.probe.reset()
        await bench.stack.start("scheduler", 1)
        say("submitting single tasks on the idle system")
        rates.idle = await _idle_latencies(stack.api_url, workload)
        say("stopping")
    return rates


@dataclass(frozen=True, slots=True)
class Wrk:
    """The wrk program, its target, its duration, and the filler of each payload."""

    program: str
    bench: Bench
    seconds: float
    filler: str

    async def load(self, urls: Sequence[str], connections: int, batch: int | None) -> list[Output]:
        """Run one wrk per URL concurrently and return the output of each.

        Raises:
            LoadtestError: a request failed, or a task was not stored.
        """
        await self.bench.probe.reset()
        outputs = await asyncio.gather(*(self._load(url, connections, batch) for url in urls))
        stored = await self.bench.probe.connection.fetchval("SELECT count(*) FROM holdfast.tasks")
        sent = sum(each["requests"] for each in outputs) * (batch or 1)
        if any(each["refused"] or each["broken"] for each in outputs) or stored < sent:
            raise LoadtestError(f"wrk submitted {sent} tasks, {stored} are stored: {outputs}")
        return outputs

    async def _load(self, url: str, connections: int, batch: int | None) -> Output:
        arguments = ["-t1", f"-c{connections}", f"-d{self.seconds:g}s", "-s", str(_SCRIPT), url]
        arguments += ["--", self.filler, *([str(batch)] if batch else [])]
        process = await asyncio.create_subprocess_exec(
            self.program, *arguments, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        return await _figures(process, "wrk")


async def _post(wrk: Wrk, apis: Sequence[str], connections: int, rates: Rates) -> None:
    [single] = await wrk.load(apis[:1], connections, None)
    rates.posted.append(_rate([single]))
    rates.posted_p50.append(single["p50"] / 1e6)
    rates.posted_p99.append(single["p99"] / 1e6)
    rates.batched.append(BATCH * _rate(await wrk.load(apis[:1], IN_FLIGHT, BATCH)))
    rates.batched_by_two.append(BATCH * _rate(await wrk.load(apis, IN_FLIGHT, BATCH)))


def _rate(outputs: Sequence[Output]) -> float:
    """Return the requests per second over all processes."""
    return sum(each["requests"] / (each["microseconds"] / 1e6) for each in outputs)


async def _enqueue(bench: Bench, options: SubmitOptions, rates: Rates) -> None:
    sizes = (options.singly, options.tasks, BATCH, options.payload_bytes)
    arguments = ["loadtest.enqueue_client", bench.stack.database_url, *map(str, sizes)]
    process = await spawn(arguments, {}, stdout=PIPE, stderr=PIPE)
    figures = await _figures(process, "enqueue")
    rates.singly.append(figures["singly"])
    rates.together.append(figures["together"])


async def _figures(process: Process, name: str) -> Output:
    """Wait for the process and return the last line of its output, decoded from JSON.

    Raises:
        LoadtestError: the process failed; the message has its standard error.
    """
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            await end(process)
    if process.returncode != 0:
        raise LoadtestError(f"{name} failed: {errors.decode(errors='replace').strip()}")
    figures: Output = json.loads(output.splitlines()[-1])
    return figures


async def _idle_latencies(url: str, workload: SubmittedTasks) -> list[float]:
    """Return the seconds from sending a submit to SUCCEEDED, one task at a time.

    Each is the duration of the request plus created-to-finished by the server's clock: an upper
    bound, because the task is stored before the response arrives.
    """
    found: list[float] = []
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30.0) as client:
        for number in range(_IDLE_TASKS):
            sent = loop.time()
            body = workload.body(number)
            task = (await client.post("/tasks/", json=body)).raise_for_status().json()
            answered = loop.time() - sent
            while task["state"] != "SUCCEEDED":
                await asyncio.sleep(_POLL_SECONDS)
                task = (await client.get(f"/tasks/{task['id']}")).raise_for_status().json()
                if loop.time() - sent > _DEADLINE_SECONDS:
                    raise LoadtestError(f"a task did not finish within a minute: {task}")
            found.append(answered + _seconds_between(task["created_at"], task["finished_at"]))
    return found


def _seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
