"""Holdfast and its peers in alternation on the same servers, and the table of it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadtest.drain import Bench, bench_of, holdfast_round, told
from loadtest.figures import Round, spread, without_nan
from loadtest.machine import Machine
from loadtest.peers.rival import Rival, Servers
from loadtest.stack import Stack

# Of the tasks that the fastest gets, for each peer: so that a round of each takes about as long.
SHARES = {
    "celery": 0.2,
    "rq": 0.05,
    "dramatiq": 0.5,
    "arq": 0.2,
    "taskiq": 0.3,
    "procrastinate": 0.1,
    "pgqueuer": 1.0,
    "dbos": 0.02,
}
TASKS_MIN = 20
_WHO = "Holdfast"
_SLOTS = 500  # as the README advises for many short tasks; the default is 100
_GUARANTEES = "every guarantee on: ledger, event log, fence, commit before the answer"
# Each setting of ours: what the workers' environment adds to the defaults, and what the table says.
HOLDFAST = {
    "best": (
        {"HOLDFAST_WORKER_CONCURRENCY": str(_SLOTS)},
        f"{_SLOTS} slots in each worker; {_GUARANTEES}",
    ),
    "defaults": ({}, f"as `holdfast up` starts it; {_GUARANTEES}"),
}


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure how often."""

    names: tuple[str, ...]
    cache: Path
    tasks: int = 20_000
    rounds: int = 3
    workers: int = 2
    schedulers: int = 1


@dataclass(slots=True)
class Row:
    """One line of the table: who, in which version, set how, and its rounds."""

    who: str
    setting: str
    versions: dict[str, str]
    settings: str
    rounds: list[Round] = field(default_factory=list)


@dataclass(slots=True)
class Comparison:
    """All rows, Holdfast's first; its best setting is what others are compared with."""

    machine: Machine
    workers: int
    rows: list[Row]

    def as_json(self) -> dict[str, Any]:
        """All of it, for a machine; ``ratios`` as in the table."""
        rows = [{**asdict(row), "ratios": self.ratios(row)} for row in self.rows]
        told = {"machine": asdict(self.machine), "workers": self.workers, "rows": rows}
        return dict(without_nan(told))

    def ratios(self, row: Row) -> list[float]:
        """How many times its drain Holdfast's is, round by round: neighbours share their noise."""
        pairs = zip(self.rows[0].rounds, row.rounds, strict=True)
        return [ours.drained_per_second / theirs.drained_per_second for ours, theirs in pairs]

    def markdown(self) -> str:
        """The table, with what it takes to read it."""
        machine = self.machine
        count = len(self.rows[0].rounds)
        busy = machine.warning()
        how = f"{machine.cores} cores, Python {machine.python}, {self.workers} worker processes"
        rounds = f"median of {count} round{'s' if count != 1 else ''} (lowest..highest)"
        lines = [
            f"{how}, no-op tasks, {rounds}.",
            *([f"**{busy[0].upper()}{busy[1:]}.**"] if busy else []),
            "",
            "| | setting | stored/s | drained/s | Holdfast is | CPU ms/task | tasks |",
            "|---|---|---:|---:|---:|---:|---:|",
            *(self._line(row) for row in self.rows),
            "",
            "| | versions | settings |",
            "|---|---|---|",
            *(_described(row) for row in self.rows),
        ]
        return "\n".join(lines) + "\n"

    def _line(self, row: Row) -> str:
        stored = spread([each.submitted_per_second for each in row.rounds])
        drained = spread([each.drained_per_second for each in row.rounds])
        cpu = spread([each.cpu_ms_per_task for each in row.rounds], digits=2)
        ratio = "" if row.who == _WHO else spread(self.ratios(row), " times", 1)
        return (
            f"| {row.who} | {row.setting} | {stored} | {drained} | {ratio} | {cpu} "
            f"| {row.rounds[0].tasks:,} |"
        )


async def compare(options: Options, say: Callable[[str], None]) -> Comparison:
    """Every round: Holdfast, then each peer at each of its settings.

    Raises:
        LoadtestError: a peer's environment cannot be made, or a figure cannot be had.
    """
    machine = Machine.now()
    rivals = []
    for name in options.names:
        say(f"{name}: making sure of its environment")
        rivals.append(await Rival.ready(name, options.cache))
    python = {"python": platform.python_version()}
    ours = [
        (added, Row(_WHO, setting, python, text)) for setting, (added, text) in HOLDFAST.items()
    ]
    rows = [
        (rival, setting, Row(rival.name, setting, rival.versions, rival.settings[setting]))
        for rival in rivals
        for setting in rival.settings
    ]
    say("starting Postgres, Valkey and the API")
    async with Stack(workers=0) as stack, bench_of(stack) as bench:
        servers = Servers(stack.database_url, stack.redis_url)
        for number in range(1, options.rounds + 1):
            head = f"round {number} of {options.rounds}"
            for added, row in ours:
                row.rounds.append(await _ours(bench, options, added))
                say(f"{head}, {_WHO}, {row.setting}: {told(row.rounds[-1])}")
            for rival, setting, row in rows:
                count = max(TASKS_MIN, round(options.tasks * SHARES[rival.name]))
                row.rounds.append(await rival.measure(servers, setting, count, options.workers))
                say(f"{head}, {rival.name}, {setting}: {told(row.rounds[-1])}")
        say("stopping")
    everybody = [*(row for _, row in ours), *(row for _, _, row in rows)]
    return Comparison(machine, options.workers, everybody)


async def _ours(bench: Bench, options: Options, added: Mapping[str, str]) -> Round:
    """With workers of their own, so that none idles beside a peer."""
    await bench.witness.reset()
    await bench.stack.start("worker", options.workers, added)
    await bench.witness.workers_ready(options.workers, bench.stack.check)
    measured = await holdfast_round(bench, options.tasks, options.schedulers)
    await bench.stack.stop("worker")
    return measured


def _described(row: Row) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in row.versions.items())
    return f"| {row.who}, {row.setting} | {versions} | {row.settings} |"
