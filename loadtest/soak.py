"""Run a steady load and check that memory, tables and indexes stop growing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg

from loadtest.drain import Bench, bench_of
from loadtest.http_submitter import SubmittedTasks
from loadtest.machine import Machine
from loadtest.page import render
from loadtest.plot import Plot, plot
from loadtest.process_stats import ROLES, megabytes
from loadtest.processes import LoadtestError
from loadtest.stack import LoadtestStack

TABLES = """
SELECT s.relname AS name, pg_table_size(s.relid)::float8 / 1e6 AS table_mb,
  pg_indexes_size(s.relid)::float8 / 1e6 AS index_mb, n_live_tup AS live, n_dead_tup AS dead,
  n_tup_upd AS updates, n_tup_hot_upd AS hot_updates, autovacuum_count AS vacuums
FROM pg_stat_user_tables s
WHERE s.schemaname = 'holdfast' AND s.relname IN ('tasks', 'requests', 'task_events', 'effects')
  ORDER BY s.relname"""
WAITING = """
SELECT count(*) FROM holdfast.tasks
WHERE state IN ('QUEUED', 'RUNNING') OR (state = 'SCHEDULED' AND due_at <= clock_timestamp())"""
NAMES = ("tasks", "requests", "task_events", "effects")
LIMITED = ("memory", "size")


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """``rate``: tasks per second; finished ones are deleted after ``retention_minutes``."""

    minutes: float = 20.0
    rate: int = 200
    every_seconds: float = 10.0
    retention_minutes: float = 2.0
    growth_max: float = 1.25
    workers: int = 2
    schedulers: int = 1
    payload_bytes: int = 256


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample ``at`` seconds after the start: MB per role, figures per table."""

    at: float
    memory: dict[str, float]
    tables: dict[str, dict[str, float]]
    waiting: int


@dataclass(frozen=True, slots=True)
class Soak:
    """All samples. ``late_seconds``: the largest delay of the load behind its schedule."""

    machine: Machine
    options: SoakOptions
    sent: int
    late_seconds: float
    samples: list[Sample]

    def growth(self) -> dict[str, float]:
        """Return each figure's median in the last quarter over that in the second; 1 is flat.

        The first quarter is excluded: caches fill, and no task has reached its retention.
        """
        found = {}
        for name, values in self._series().items():
            quarter = max(1, len(values) // 4)
            early = statistics.median(values[quarter : 2 * quarter] or values)
            late = statistics.median(values[-quarter:])
            found[name] = late / early if early else 1.0
        return found

    @property
    def flat(self) -> bool:
        """Whether memory and sizes grew by no more than ``growth_max``."""
        growth = self.growth()
        limited = [name for name in growth if name.split()[0] in LIMITED]
        return all(growth[name] <= self.options.growth_max for name in limited)

    @property
    def hot_share(self) -> float | None:
        """Return the share of HOT updates among the updates of ``tasks``."""
        tasks = self.samples[-1].tables["tasks"]
        return tasks["hot_updates"] / tasks["updates"] if tasks["updates"] else None

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        derived = {"flat": self.flat, "growth": self.growth(), "hot_share": self.hot_share}
        return {**derived, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the first and last value of each figure as lines of text."""
        growth = self.growth()
        lines = [f"{self.sent:,} tasks, {self.options.rate}/s for {self.options.minutes:g} minutes"]
        for name, values in self._series().items():
            limited = name.split()[0] in LIMITED
            mark = "  MISSED" if limited and growth[name] > self.options.growth_max else ""
            lines.append(
                f"{name:26}{values[0]:>12,.1f} -> {values[-1]:>12,.1f}  last quarter over "
                f"second {growth[name]:.2f}{mark}"
            )
        if self.hot_share is not None:
            lines.append(f"HOT updates of tasks: {self.hot_share:.1%}")
        if self.late_seconds > 1:
            lines.append(f"note: the load itself came up to {self.late_seconds:.1f} s late")
        warning = self.machine.warning()
        return lines + ([f"note: {warning}"] if warning else [])

    def plots(self) -> list[Plot]:
        """Return the samples as curves."""
        step = self.options.every_seconds
        series = self._series()

        def of(kind: str) -> list[tuple[str, Sequence[float]]]:
            return [(n.partition(" ")[2], v) for n, v in series.items() if n.startswith(f"{kind} ")]

        return [
            plot("Memory of the largest process of each role", "MB", of("memory"), step),
            plot("Size with indexes", "MB", of("size"), step),
            plot("Index size", "MB", of("index"), step),
            plot("Dead tuples", "rows", of("dead"), step),
            plot("Waiting (due and not finished)", "tasks", [("waiting", series["waiting"])], step),
        ]

    def _series(self) -> dict[str, list[float]]:
        samples = self.samples
        found = {f"memory {role}": [s.memory[role] for s in samples] for role in ROLES}
        for name in NAMES:
            rows = [sample.tables[name] for sample in samples]
            found[f"size {name}"] = [row["table_mb"] + row["index_mb"] for row in rows]
        for name in NAMES:
            found[f"index {name}"] = [sample.tables[name]["index_mb"] for sample in samples]
        for name in NAMES:
            found[f"dead {name}"] = [sample.tables[name]["dead"] for sample in samples]
        found["waiting"] = [float(sample.waiting) for sample in samples]
        return found


async def run(options: SoakOptions, say: Callable[[str], None]) -> Soak:
    """Run the load and sample periodically.

    Raises:
        LoadtestError: a task was not stored, or a process died or was not found.
    """
    machine = Machine.now()
    retention = {"HOLDFAST_RETENTION_DAYS": str(options.retention_minutes / 1440)}
    say("starting Postgres, Valkey, the API, the workers and a scheduler")
    stack = LoadtestStack(
        workers=options.workers, schedulers=options.schedulers, environment=retention
    )
    workload = SubmittedTasks.sized(options.payload_bytes)
    async with stack, bench_of(stack, workload) as bench:
        seconds = options.minutes * 60
        say(f"{options.rate} tasks/s for {options.minutes:g} minutes")
        load = asyncio.create_task(bench.submitter.steady(options.rate, seconds))
        try:
            samples = await _sample_until_done(bench, load, options, say)
            sent, late = await load
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        say("stopping")
    return Soak(machine, options, sent, late, samples)


def save(soak: Soak, out: Path) -> Path:
    """Write ``soak.json`` and ``soak.html``; return the path of the page."""
    out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(soak.as_json(), indent=2) + "\n"
    (out / "soak.json").write_text(content, encoding="utf-8")
    page = render("soak.html", {"soak": soak, "plots": soak.plots(), "lines": soak.lines()})
    (out / "soak.html").write_text(page, encoding="utf-8")
    return out / "soak.html"


async def _sample_until_done(
    bench: Bench, load: asyncio.Task[Any], options: SoakOptions, say: Callable[[str], None]
) -> list[Sample]:
    """Sample periodically until the load has ended, and once after it."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    samples: list[Sample] = []
    while True:
        bench.stack.check()
        sample = await _sample(bench.probe.connection, loop.time() - began)
        samples.append(sample)
        memory = "  ".join(f"{role} {sample.memory[role]:.0f} MB" for role in ROLES)
        size = sum(row["table_mb"] + row["index_mb"] for row in sample.tables.values())
        say(f"{sample.at:5.0f} s  waiting {sample.waiting}  {memory}  tables {size:.0f} MB")
        if load.done():
            return samples
        pause = began + len(samples) * options.every_seconds - loop.time()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(load), max(0.0, pause))


async def _sample(connection: asyncpg.Connection, at: float) -> Sample:
    rows = await connection.fetch(TABLES)
    tables = {row["name"]: {k: float(v) for k, v in row.items() if k != "name"} for row in rows}
    memory = await asyncio.to_thread(megabytes)  # a slow scan must not delay the load
    if missing := [role for role in ROLES if role not in memory]:
        raise LoadtestError(f"no {missing[0]} process found: its memory cannot be measured")
    return Sample(at, memory, tables, int(await connection.fetchval(WAITING)))
