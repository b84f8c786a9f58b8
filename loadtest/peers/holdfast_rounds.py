"""Measure Holdfast beside the peers: its settings, and rounds with and without an effect."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from loadtest.database_probe import DRAIN_POLL_SECONDS
from loadtest.drain import Bench, begin_round, client_of, holdfast_round
from loadtest.drain_results import Round
from loadtest.http_submitter import HttpSubmitter
from loadtest.inserts import COUNT, CREATE, TRUNCATE
from loadtest.processes import LoadtestError
from loadtest.worker_kill import DrainFigures, WorkerKill, drained_with_kill

HOLDFAST = "Holdfast"
# After the lease of a killed worker (15 s) its tasks run again; the rest is for a busy machine.
REDELIVERY_SECONDS = 90.0
_SLOTS = {"HOLDFAST_WORKER_CONCURRENCY": "500"}  # as the README advises for many short tasks
# Each setting: variables added to the defaults, and the text in the table.
_SETTINGS: dict[str, tuple[dict[str, str], str]] = {
    "best": (_SLOTS, "500 slots in each worker; 1 % of the traces sampled, which is the default"),
    "defaults": ({}, "as `holdfast up` starts it: 100 slots in each worker"),
    "best, all traced": ({**_SLOTS, "HOLDFAST_TRACE_RATIO": "1"}, "500 slots; every trace sampled"),
}
GUARANTEES = "; ledger, event log, fence, commit before the answer"
EFFECTS = {
    "": "",
    "ledger": "; the effect is its row of the ledger",
    "transaction": "; the handler inserts a row by `ctx.transaction()`",
}


def settings_of(effect: str) -> dict[str, tuple[dict[str, str], str]]:
    """Return the settings to measure; the first is the reference of all ratios.

    More slots than connections to Postgres gain nothing for a handler that needs one.
    """
    names = {"": list(_SETTINGS), "ledger": ["best", "defaults"], "transaction": ["defaults"]}
    return {name: _SETTINGS[name] for name in names[effect]}


async def measure_holdfast(
    bench: Bench, tasks: int, processes: tuple[int, int], effect: str, added: Mapping[str, str]
) -> Round:
    """Measure one round with an API and workers of its own, stopped before a peer runs.

    ``processes``: workers and schedulers. ``added``: further HOLDFAST_* variables.

    Raises:
        LoadtestError: a task was not stored, or without an effect did not succeed.
    """
    workers, schedulers = processes
    if effect:
        added = {**added, "HOLDFAST_LOG_LEVEL": "ERROR"}  # the kill is no surprise
    await bench.probe.reset()
    if effect == "transaction":
        await bench.probe.connection.execute(f"{CREATE}; {TRUNCATE}")
    url = await bench.stack.start_api(added)
    await bench.stack.start("worker", workers, added)
    await bench.probe.workers_ready(workers, bench.stack.check)
    async with client_of(url) as client:
        configured = replace(bench, submitter=HttpSubmitter(client, bench.submitter.workload))
        if effect:
            measured = await _round_with_kill(configured, tasks, schedulers, effect, added)
        else:
            measured = await holdfast_round(configured, tasks, schedulers, added)
    for role in ("worker", "api"):
        await bench.stack.stop(role)
    return measured


async def _round_with_kill(
    bench: Bench, tasks: int, schedulers: int, effect: str, added: Mapping[str, str]
) -> Round:
    loop = asyncio.get_running_loop()

    async def progress() -> tuple[float, int]:
        await asyncio.sleep(DRAIN_POLL_SECONDS)
        bench.stack.check()
        return loop.time(), await bench.probe.finished()

    async def kill() -> None:
        await bench.stack.kill("worker")

    seconds = await begin_round(bench, tasks, schedulers, added)
    drained = await drained_with_kill(tasks, progress, WorkerKill(kill, REDELIVERY_SECONDS))
    await bench.stack.stop("scheduler")
    if not drained.fault:
        drained = await _checked(bench, tasks, effect, drained)
    return Round(
        tasks,
        tasks / seconds,
        drained.rate,
        drained.cpu_ms_per_task,
        drained.cpu_ms_by_part,
        drained.fault,
    )


async def _checked(bench: Bench, tasks: int, effect: str, drained: DrainFigures) -> DrainFigures:
    """Return ``drained`` if each task left exactly one row, else figures without a rate."""
    try:
        await bench.probe.check_all_succeeded(tasks)
    except LoadtestError as fault:
        return DrainFigures.without_rate(str(fault))
    rows = await bench.probe.connection.fetchval(COUNT) if effect == "transaction" else tasks
    if rows == tasks:
        return drained
    return DrainFigures.without_rate(f"{tasks:,} tasks left {rows:,} rows")
