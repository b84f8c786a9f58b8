"""How fast are tasks stored: singly, in batches, by ``enqueue``; and how long does one take when
nothing else is to be done?
"""

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
from loadtest.http_submitter import BATCH, IN_FLIGHT, noop
from loadtest.processes import LoadtestError, end, spawn
from loadtest.stack import LoadtestStack

_SCRIPT = Path(__file__).with_name("post.lua")
_WRK_MISSING = (
    "wrk is not on PATH: single requests need a load generator that is faster than what it loads "
    "(Debian: apt-get install wrk; macOS: brew install wrk), or leave them out with --no-wrk"
)
_IDLE_TASKS = 200
_POLL_SECONDS = 0.002
_GIVE_UP_SECONDS = 60.0

Told = dict[str, float]


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """``seconds``, ``connections``: wrk's, for single requests. Each round ``tasks`` by
    ``enqueue_many`` and ``singly`` by ``enqueue``; without ``wrk`` also ``tasks`` in batches.
    """

    rounds: int = 3
    seconds: float = 8.0
    connections: int = 64
    tasks: int = 30_000
    singly: int = 3_000
    wrk: bool = True


@dataclass(slots=True)
class Rates:
    """Tasks per second per round; seconds of single requests and of tasks on an idle system."""

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
        told = [f"{name:42}{spread(rates):>26} tasks/s" for name, rates in rows if rates]
        if self.posted:
            median, late = (
                spread([1000 * each for each in seconds], " ms", 1)
                for seconds in (self.posted_p50, self.posted_p99)
            )
            told.append(f"{'a single POST':42}p50 {median}, p99 {late}")
        idle = [1000 * seconds for seconds in self.idle]
        p99 = statistics.quantiles(idle, n=100)[98]
        told.append(
            f"{'idle: submitted -> SUCCEEDED':42}p50 {statistics.median(idle):.1f} ms, "
            f"p99 {p99:.1f} ms over {len(idle)} tasks"
        )
        return told


async def run(options: SubmitOptions, say: Callable[[str], None]) -> Rates:
    """Start a stack, measure, stop it. One API process, but where two are named.

    Raises:
        LoadtestError: a figure could not be had.
    """
    wrk = shutil.which("wrk") if options.wrk else None
    if options.wrk and wrk is None:
        raise LoadtestError(_WRK_MISSING)
    rates = Rates()
    say("starting Postgres, Valkey, the API and a worker")
    async with LoadtestStack(workers=1) as stack, bench_of(stack) as bench:
        apis = [stack.api_url, await stack.start_api()] if wrk else []
        for number in range(1, options.rounds + 1):
            if wrk is None:
                await bench.probe.reset()
                rates.batched.append(options.tasks / await bench.submitter.flood(options.tasks))
            else:
                await _post(Wrk(wrk, bench, options.seconds), apis, options.connections, rates)
            await bench.probe.reset()
            await _enqueue(bench, options, rates)
            say(f"round {number} of {options.rounds}: {rates.batched[-1]:,.0f} tasks/s in batches")
        await bench.probe.reset()
        await bench.stack.start("scheduler", 1)
        say("one task after the other, when nothing else is to be done")
        rates.idle = await _alone(stack.api_url)
        say("stopping")
    return rates


@dataclass(frozen=True, slots=True)
class Wrk:
    """The wrk program, its target and its duration."""

    program: str
    bench: Bench
    seconds: float

    async def load(self, urls: Sequence[str], connections: int, batch: int | None) -> list[Told]:
        """One wrk for each URL, all at once; what each told.

        Raises:
            LoadtestError: a request failed, or a task was not stored.
        """
        await self.bench.probe.reset()
        told = await asyncio.gather(*(self._load(url, connections, batch) for url in urls))
        stored = await self.bench.probe.connection.fetchval("SELECT count(*) FROM tasks")
        sent = sum(each["requests"] for each in told) * (batch or 1)
        if any(each["refused"] or each["broken"] for each in told) or stored < sent:
            raise LoadtestError(f"of what wrk sent, {stored} tasks are stored: {told}")
        return told

    async def _load(self, url: str, connections: int, batch: int | None) -> Told:
        arguments = ["-t1", f"-c{connections}", f"-d{self.seconds:g}s", "-s", str(_SCRIPT), url]
        arguments += ["--", str(batch)] if batch else []
        process = await asyncio.create_subprocess_exec(
            self.program, *arguments, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        return await _figures(process, "wrk")


async def _post(wrk: Wrk, apis: Sequence[str], connections: int, rates: Rates) -> None:
    [told] = await wrk.load(apis[:1], connections, None)
    rates.posted.append(_rate([told]))
    rates.posted_p50.append(told["p50"] / 1e6)
    rates.posted_p99.append(told["p99"] / 1e6)
    rates.batched.append(BATCH * _rate(await wrk.load(apis[:1], IN_FLIGHT, BATCH)))
    rates.batched_by_two.append(BATCH * _rate(await wrk.load(apis, IN_FLIGHT, BATCH)))


def _rate(told: Sequence[Told]) -> float:
    """Return the requests per second over all processes."""
    return sum(each["requests"] / (each["microseconds"] / 1e6) for each in told)


async def _enqueue(bench: Bench, options: SubmitOptions, rates: Rates) -> None:
    sizes = (options.singly, options.tasks, BATCH)
    arguments = ["loadtest.enqueue_client", bench.stack.database_url, *map(str, sizes)]
    process = await spawn(arguments, {}, stdout=PIPE, stderr=PIPE)
    told = await _figures(process, "enqueue")
    rates.singly.append(told["singly"])
    rates.together.append(told["together"])


async def _figures(process: Process, name: str) -> Told:
    """The last line that it printed, which is JSON.

    Raises:
        LoadtestError: it failed; with what it complained of.
    """
    try:
        output, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            await end(process)
    if process.returncode != 0:
        raise LoadtestError(f"{name} failed: {complaint.decode(errors='replace').strip()}")
    told: Told = json.loads(output.splitlines()[-1])
    return told


async def _alone(url: str) -> list[float]:
    """Seconds from sending a submit to SUCCEEDED, one task at a time.

    The time of the request, and from then on what the server's clock says: an upper bound, since
    the task is stored before its request is answered.
    """
    found: list[float] = []
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30.0) as client:
        for number in range(_IDLE_TASKS):
            sent = loop.time()
            task = (await client.post("/tasks/", json=noop(number))).raise_for_status().json()
            answered = loop.time() - sent
            while task["state"] != "SUCCEEDED":
                await asyncio.sleep(_POLL_SECONDS)
                task = (await client.get(f"/tasks/{task['id']}")).raise_for_status().json()
                if loop.time() - sent > _GIVE_UP_SECONDS:
                    raise LoadtestError(f"a task was not done within a minute: {task}")
            found.append(answered + _seconds_between(task["created_at"], task["finished_at"]))
    return found


def _seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
