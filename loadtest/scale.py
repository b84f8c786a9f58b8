"""Measure the drain with a large table of future and finished tasks, and with an empty one."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.drain import Bench, bench_of, describe, holdfast_round
from loadtest.drain_results import Round, spread, without_nan
from loadtest.fill import FINISHED_BYTES, FUTURE_BYTES, Filler
from loadtest.http_submitter import SubmittedTasks
from loadtest.machine import Machine
from loadtest.processes import LoadtestError
from loadtest.stack import LoadtestStack

SIZES = """
SELECT relname AS name, pg_table_size(oid)::bigint AS table_bytes,
  pg_indexes_size(oid)::bigint AS index_bytes, reltuples::bigint AS rows
FROM pg_class WHERE relkind = 'r' AND relnamespace = 'holdfast'::regnamespace
  AND relname IN ('tasks', 'requests', 'task_events', 'effects') ORDER BY relname"""


@dataclass(frozen=True, slots=True)
class ScaleOptions:
    """``future`` and ``finished``: tasks in the large table; ``rounds``: per table size.

    ``queues``: further queues over which the future tasks are spread.
    """

    future: int = 5_000_000
    finished: int = 5_000_000
    tasks: int = 20_000
    rounds: int = 3
    workers: int = 2
    schedulers: int = 1
    queues: int = 0
    payload_bytes: int = 256


@dataclass(frozen=True, slots=True)
class Scaling:
    """``empty``: rounds before the table was filled and after it was emptied again."""

    machine: Machine
    options: ScaleOptions
    empty: list[Round]
    full: list[Round]
    sizes: list[dict[str, Any]]

    @property
    def share(self) -> float:
        """Return the drain rate with the large table over that with the empty one (medians)."""
        return _median(self.full) / _median(self.empty)

    @property
    def cpu_share(self) -> float:
        """Return the CPU time per task with the large table over that with the empty one."""
        cost = [statistics.median(each.cpu_ms_per_task for each in rounds) for rounds in self._both]
        return cost[1] / cost[0]

    @property
    def _both(self) -> tuple[list[Round], list[Round]]:
        return self.empty, self.full

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        shares = {"share": self.share, "cpu_share": self.cpu_share}
        return dict(without_nan({**asdict(self), **shares}))

    def lines(self) -> list[str]:
        """Return medians and, in brackets, ranges over the rounds as lines of text."""
        lines = [f"{'table':42}{'drained/s':>26}{'CPU ms/task':>22}"]
        large = f"{self.options.future:,} future, {self.options.finished:,} finished"
        for name, rounds in (("empty", self.empty), (large, self.full)):
            drained = spread([each.drained_per_second for each in rounds])
            cpu = spread([each.cpu_ms_per_task for each in rounds], digits=2)
            lines.append(f"{name:42}{drained:>26}{cpu:>22}")
        lines.append(
            f"with the large table: {self.share:.0%} of the rate, "
            f"{self.cpu_share:.0%} of the CPU time"
        )
        for size in self.sizes:
            table, index = (size[name] / 1e6 for name in ("table_bytes", "index_bytes"))
            lines.append(
                f"{size['name']}: {size['rows']:,} rows, {table:,.0f} MB and {index:,.0f} MB of "
                "indexes"
            )
        warning = self.machine.warning()
        return lines + ([f"note: {warning}"] if warning else [])


async def run(options: ScaleOptions, say: Callable[[str], None]) -> Scaling:
    """Measure with the empty table, the large one, and the empty one again.

    Raises:
        LoadtestError: the disk is too small, or a figure cannot be measured.
    """
    machine = Machine.now()
    _check_disk_space(options)
    say("starting Postgres, Valkey, the API and the workers")
    workload = SubmittedTasks.sized(options.payload_bytes)
    async with LoadtestStack(workers=options.workers) as stack, bench_of(stack, workload) as bench:
        empty = await _rounds(bench, options, "empty table", say)
        await bench.probe.reset()
        await Filler(bench).fill(options.future, options.finished, say, queues=options.queues)
        sizes = [dict(row) for row in await bench.probe.connection.fetch(SIZES)]
        full = await _rounds(bench, options, "large table", say)
        await bench.probe.reset()
        # Measured again, to notice a change of other load on the machine.
        empty += await _rounds(bench, options, "empty table again", say)
        say("stopping")
    return Scaling(machine, options, empty, full, sizes)


async def _rounds(
    bench: Bench, options: ScaleOptions, name: str, say: Callable[[str], None]
) -> list[Round]:
    rounds = []
    for number in range(1, options.rounds + 1):
        measured = await holdfast_round(bench, options.tasks, options.schedulers)
        say(f"{name}, round {number} of {options.rounds}: {describe(measured)}")
        rounds.append(measured)
    return rounds


def _check_disk_space(options: ScaleOptions) -> None:
    payloads = 1.5 * options.payload_bytes * (options.future + options.finished)
    needed = options.future * FUTURE_BYTES + options.finished * FINISHED_BYTES + payloads
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if needed > 0.8 * free:
        raise LoadtestError(
            f"the tasks need about {needed / 1e9:.1f} GB, but {tempfile.gettempdir()} has "
            f"{free / 1e9:.1f} GB left: set TMPDIR to a larger disk, or request fewer tasks"
        )


def _median(rounds: list[Round]) -> float:
    return float(statistics.median(each.drained_per_second for each in rounds))
