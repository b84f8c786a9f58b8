"""Measure Holdfast and other task queues alternately on the same servers; format the table."""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadtest.collector import span_collector
from loadtest.drain import bench_of, describe
from loadtest.drain_results import Round, spread, without_nan
from loadtest.http_submitter import SubmittedTasks
from loadtest.inserts import APPLICATION, NAME
from loadtest.machine import Machine
from loadtest.peers.holdfast_rounds import (
    EFFECTS,
    GUARANTEES,
    HOLDFAST,
    measure_holdfast,
    settings_of,
)
from loadtest.peers.peer_process import PeerLoad, PeerProcess, Servers
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
_WORK = {
    "": "no-op tasks",
    "ledger": "one row in Postgres for each task (ledger)",
    "transaction": "one row in Postgres for each task (inserted in a transaction of the handler)",
}


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """Peers and sizes of a comparison; ``cache``: where the peers' environments are kept.

    ``effect``: as in PeerConfig.
    """

    names: tuple[str, ...]
    cache: Path
    tasks: int = 20_000
    rounds: int = 3
    workers: int = 2
    schedulers: int = 1
    payload_bytes: int = 256
    effect: str = ""


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
    payload_bytes: int = 256
    effect: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON; ``ratios`` as in the table."""
        rows = [{**asdict(row), "ratios": self.ratios(row)} for row in self.rows]
        return dict(without_nan({**asdict(self), "rows": rows}))

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
            f"{how}, {_WORK[self.effect]}, payloads of {self.payload_bytes:,} bytes, {rounds}.",
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
        head, tail = f"| {row.who} | {row.setting} | {stored}", f"{row.rounds[0].tasks:,} |"
        if faults := [each.fault for each in row.rounds if each.fault]:
            return f"{head} | no rate: {faults[0]} | | | {tail}"
        drained = spread([each.drained_per_second for each in row.rounds])
        cpu = spread([each.cpu_ms_per_task for each in row.rounds], digits=2)
        ratios = self.ratios(row)
        known = row.who != HOLDFAST and not any(math.isnan(each) for each in ratios)
        ratio = spread(ratios, " times", 1) if known else ""
        return f"{head} | {drained} | {ratio} | {cpu} | {tail}"


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
        (added, Row(HOLDFAST, setting, python, text + GUARANTEES + EFFECTS[options.effect]))
        for setting, (added, text) in settings_of(options.effect).items()
    ]
    rows = [
        (peer, Row(peer.name, setting, peer.versions, _settings(peer, setting, options.effect)))
        for peer in peers
        for setting in peer.settings
        if setting == "durable" or not options.effect
    ]
    inserts = options.effect == "transaction"
    workload = SubmittedTasks.sized(options.payload_bytes, NAME if inserts else "echo")
    say("starting Postgres, Valkey and the API")
    async with (
        LoadtestStack(workers=0, application=APPLICATION if inserts else None) as stack,
        bench_of(stack, workload) as bench,
        span_collector() as collector,
    ):
        servers = Servers(stack.database_url, stack.redis_url)
        processes = options.workers, options.schedulers
        for number in range(1, options.rounds + 1):
            head = f"round {number} of {options.rounds}"
            for added, row in ours:
                variables = {**added, "HOLDFAST_OTLP_ENDPOINT": collector.url}
                row.rounds.append(
                    await measure_holdfast(
                        bench, options.tasks, processes, options.effect, variables
                    )
                )
                row.spans.append(await collector.count() / options.tasks)
                say(f"{head}, {HOLDFAST}, {row.setting}: {describe(row.rounds[-1])}")
            for peer, row in rows:
                load = _load(options, peer.name, row.setting)
                row.rounds.append(await peer.measure(servers, load))
                say(f"{head}, {peer.name}, {row.setting}: {describe(row.rounds[-1])}")
        say("stopping")
    table = [*(row for _, row in ours), *(row for _, row in rows)]
    return Comparison(machine, options.workers, table, options.payload_bytes, options.effect)


def _load(options: CompareOptions, name: str, setting: str) -> PeerLoad:
    count = max(TASKS_MIN, round(options.tasks * SHARES[name]))
    return PeerLoad(setting, count, options.workers, options.payload_bytes, options.effect)


def _settings(peer: PeerProcess, setting: str, effect: str) -> str:
    return f"{peer.settings[setting]}; {peer.effect}" if effect else peer.settings[setting]


def _described(row: Row) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in row.versions.items())
    spans = f" ({statistics.median(row.spans):.2f} spans per task received)" if row.spans else ""
    return f"| {row.who}, {row.setting} | {versions} | {row.settings}{spans} |"
