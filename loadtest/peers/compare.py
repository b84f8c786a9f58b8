"""Measure Holdfast and other task queues alternately on the same servers; format the table."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from loadtest.collector import span_collector
from loadtest.drain import Bench, bench_of, client_of, describe, holdfast_round
from loadtest.drain_results import Round, spread, without_nan
from loadtest.http_submitter import HttpSubmitter
from loadtest.machine import Machine
from loadtest.peers.peer_process import PeerProcess, Servers
from loadtest.stack import LoadtestStack

# Share of ``CompareOptions.tasks`` for each peer, so that their rounds take about the same time.
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
_HOLDFAST = "Holdfast"
_SLOTS = {"HOLDFAST_WORKER_CONCURRENCY": "500"}  # as the README advises for many short tasks
# Each setting of Holdfast: variables added to the defaults, and the text in the table. The first is
# the reference of all ratios.
_HOLDFAST_SETTINGS: dict[str, tuple[dict[str, str], str]] = {
    "best": (_SLOTS, "500 slots in each worker; 1 % of the traces sampled, which is the default"),
    "defaults": ({}, "as `holdfast up` starts it: 100 slots in each worker"),
    "best, all traced": ({**_SLOTS, "HOLDFAST_TRACE_RATIO": "1"}, "500 slots; every trace sampled"),
}
_GUARANTEES = "; ledger, event log, fence, commit before the answer"


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """Peers and sizes of a comparison; ``cache``: where the peers' environments are kept."""

    names: tuple[str, ...]
    cache: Path
    tasks: int = 20_000
    rounds: int = 3
    workers: int = 2
    schedulers: int = 1


@dataclass(slots=True)
class Row:
    """One line of the table: a system at one setting, and its rounds.

    ``setting`` is the setting's name, ``settings`` says what it sets. ``spans``: received by the
    collector per task, for each round; only for Holdfast.
    """

    who: str
    setting: str
    versions: dict[str, str]
    settings: str
    rounds: list[Round] = field(default_factory=list)
    spans: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Comparison:
    """All rows; the first is the reference of all ratios."""

    machine: Machine
    workers: int
    rows: list[Row]

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON; ``ratios`` as in the table."""
        rows = [{**asdict(row), "ratios": self.ratios(row)} for row in self.rows]
        content = {"machine": asdict(self.machine), "workers": self.workers, "rows": rows}
        return dict(without_nan(content))

    def ratios(self, row: Row) -> list[float]:
        """Return the reference's drain rate over the row's, for each round.

        Rounds of the same number ran one after the other, so they share the machine's noise.
        """
        pairs = zip(self.rows[0].rounds, row.rounds, strict=True)
        return [ours.drained_per_second / theirs.drained_per_second for ours, theirs in pairs]

    def markdown(self) -> str:
        """Return the table with a description of the machine and the settings."""
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
        ratio = "" if row.who == _HOLDFAST else spread(self.ratios(row), " times", 1)
        return (
            f"| {row.who} | {row.setting} | {stored} | {drained} | {ratio} | {cpu} "
            f"| {row.rounds[0].tasks:,} |"
        )


async def compare(options: CompareOptions, say: Callable[[str], None]) -> Comparison:
    """Measure, in every round, Holdfast and then each peer at each of its settings.

    Raises:
        LoadtestError: a peer's environment cannot be created, or a figure cannot be measured.
    """
    machine = Machine.now()
    peers = []
    for name in options.names:
        say(f"{name}: preparing its environment")
        peers.append(await PeerProcess.ready(name, options.cache))
    python = {"python": platform.python_version()}
    ours = [
        (added, Row(_HOLDFAST, setting, python, text + _GUARANTEES))
        for setting, (added, text) in _HOLDFAST_SETTINGS.items()
    ]
    rows = [
        (peer, setting, Row(peer.name, setting, peer.versions, peer.settings[setting]))
        for peer in peers
        for setting in peer.settings
    ]
    say("starting Postgres, Valkey and the API")
    async with (
        LoadtestStack(workers=0) as stack,
        bench_of(stack) as bench,
        span_collector() as collector,
    ):
        servers = Servers(stack.database_url, stack.redis_url)
        for number in range(1, options.rounds + 1):
            head = f"round {number} of {options.rounds}"
            for added, row in ours:
                variables = {**added, "HOLDFAST_OTLP_ENDPOINT": collector.url}
                row.rounds.append(await _holdfast(bench, options, variables))
                row.spans.append(await collector.count() / options.tasks)
                say(f"{head}, {_HOLDFAST}, {row.setting}: {describe(row.rounds[-1])}")
            for peer, setting, row in rows:
                count = max(TASKS_MIN, round(options.tasks * SHARES[peer.name]))
                row.rounds.append(await peer.measure(servers, setting, count, options.workers))
                say(f"{head}, {peer.name}, {setting}: {describe(row.rounds[-1])}")
        say("stopping")
    table = [*(row for _, row in ours), *(row for _, _, row in rows)]
    return Comparison(machine, options.workers, table)


async def _holdfast(bench: Bench, options: CompareOptions, added: Mapping[str, str]) -> Round:
    """Measure one round with an API and workers of its own, stopped before a peer runs."""
    await bench.probe.reset()
    url = await bench.stack.start_api(added)
    await bench.stack.start("worker", options.workers, added)
    await bench.probe.workers_ready(options.workers, bench.stack.check)
    async with client_of(url) as client:
        configured = replace(bench, submitter=HttpSubmitter(client))
        measured = await holdfast_round(configured, options.tasks, options.schedulers, added)
    for role in ("worker", "api"):
        await bench.stack.stop(role)
    return measured


def _described(row: Row) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in row.versions.items())
    spans = f" ({statistics.median(row.spans):.2f} spans per task received)" if row.spans else ""
    return f"| {row.who}, {row.setting} | {versions} | {row.settings}{spans} |"
