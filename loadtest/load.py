"""Load a Holdfast, temporary or remote, with Locust users and summarise the result."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx

from loadtest.locust_run import LocustLoad, LocustRun
from loadtest.machine import Machine
from loadtest.page import render_summary
from loadtest.processes import LoadtestError
from loadtest.record import Recorder
from loadtest.stack import LoadtestStack
from loadtest.summary import MEANINGS, Summary, figures_of
from loadtest.thresholds import Limit, judge, read_limits

REQUEST_SECONDS = 60.0
TICK_SECONDS = 1.0
QUIET_TICKS = 5


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Load and its limits. ``host`` None: start a temporary stack."""

    load: LocustLoad
    out: Path
    thresholds: Path
    host: str | None = None
    workers: int = 2
    schedulers: int = 1
    drain_seconds: float = 120.0
    """Maximum wait for unfinished tasks after the load."""
    tasks_max: int = 1_000_000
    """Maximum number of tasks to read back."""


async def run(options: LoadOptions, say: Callable[[str], None]) -> Summary:
    """Run the load, wait for the drain, and write the files into ``options.out``.

    Raises:
        LoadtestError: a figure cannot be measured. No file remains, as after a signal.
    """
    limits = read_limits(options.thresholds, list(MEANINGS))
    machine = Machine.now()
    options.out.mkdir(parents=True)
    try:
        async with _host(options, say) as (host, check):
            summary = await _measure(options, host, check, limits, machine, say)
    except BaseException:
        shutil.rmtree(options.out, ignore_errors=True)
        raise
    content = json.dumps(summary.as_json(), indent=2) + "\n"
    (options.out / "summary.json").write_text(content, encoding="utf-8")
    (options.out / "summary.html").write_text(render_summary(summary), encoding="utf-8")
    return summary


@asynccontextmanager
async def _host(
    options: LoadOptions, say: Callable[[str], None]
) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Yield the base URL and a check that raises if the stack has died."""
    if options.host is not None:
        yield options.host.rstrip("/"), lambda: None
        return
    say("starting Postgres, Valkey, the API, the workers and a scheduler")
    async with LoadtestStack(workers=options.workers, schedulers=options.schedulers) as stack:
        yield stack.api_url, stack.check
        say("stopping")


async def _measure(
    options: LoadOptions,
    host: str,
    check: Callable[[], None],
    limits: list[Limit],
    machine: Machine,
    say: Callable[[str], None],
) -> Summary:
    run_id = uuid4().hex
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    async with _client(host) as client:
        recorder = Recorder(client, run_id, options.tasks_max)
        await recorder.begin()
        say(f"loading {host} for {options.load.seconds:g} s with {options.load.users} users")
        locust = LocustRun(options.load, host, run_id, options.out)
        try:
            await locust.start()
            await _watch(locust, recorder, check, options.load, say)
            await locust.wait()
        finally:
            await locust.stop()
        say("waiting for unfinished tasks, then reading the outcome of each task")
        record = await recorder.read_when_drained(options.drain_seconds)
        newest = max((task.created for task in record.tasks), default=0.0)
        await recorder.cancel(task for task in record.tasks if task.due > newest)
    figures, drawn = figures_of(record, locust.tallies(), options.load)
    notes = [note for note in [machine.warning()] if note]
    if not record.complete:
        notes.append(f"only the newest {len(record.tasks):,} tasks were read: see --tasks-max")
    return Summary(
        run_id=run_id,
        host=host,
        embedded=options.host is None,
        started_at=started_at,
        load=options.load,
        machine=machine,
        figures=figures,
        judgements=judge(limits, figures),
        errors=locust.failures(),
        curves=drawn,
        notes=notes,
    )


@asynccontextmanager
async def _client(host: str) -> AsyncIterator[httpx.AsyncClient]:
    key = os.environ.get("HOLDFAST_API_KEY")
    try:
        async with httpx.AsyncClient(
            base_url=host,
            timeout=REQUEST_SECONDS,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            trust_env=False,
        ) as client:
            yield client
    except httpx.InvalidURL as error:
        raise LoadtestError(f"{host} is not a valid URL: {error}") from error


async def _watch(
    locust: LocustRun,
    recorder: Recorder,
    check: Callable[[], None],
    load: LocustLoad,
    say: Callable[[str], None],
) -> None:
    """Report progress until Locust exits: one updating line on a terminal, else periodic lines."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    ticks = 0
    while locust.running:
        check()
        await asyncio.sleep(TICK_SECONDS)
        ticks += 1
        if sys.stderr.isatty():
            line = await _line(locust, recorder, load, loop.time() - began)
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        elif ticks % QUIET_TICKS == 0:
            say(await _line(locust, recorder, load, loop.time() - began))
    if sys.stderr.isatty():
        sys.stderr.write("\n")


async def _line(locust: LocustRun, recorder: Recorder, load: LocustLoad, passed: float) -> str:
    now = locust.progress()
    if now is None:
        return "Locust is starting"
    waiting = await recorder.waiting()
    effect = ""
    if now.effect_p50 and now.effect_p99:  # 0: none measured yet
        effect = f"  effect p50 {now.effect_p50:,.0f} ms p99 {now.effect_p99:,.0f} ms"
    more = "+" if waiting >= 1000 else ""
    return (
        f"{passed:3.0f} s of {load.seconds:.0f}  {now.users} users  "
        f"submitted {now.submitted_per_second:,.0f}/s{effect}  "
        f"waiting {waiting:,}{more}  failures {now.failures}"
    )
