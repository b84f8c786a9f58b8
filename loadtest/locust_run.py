"""Run Locust as a child process: arguments, progress, statistics."""

from __future__ import annotations

import csv
import math
import os
from asyncio.subprocess import STDOUT, Process
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from loadtest.processes import LoadtestError, end, spawn

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
EFFECT = ("EFFECT", "submit due -> effect")
SINGLE = ("POST", "/tasks/")
BATCH = ("POST", "/tasks/batch")
TAIL_BYTES = 1 << 15
# Locust exits with 1 if a request failed; the limits decide whether the run passes.
_MEASURED = frozenset({0, 1})


@dataclass(frozen=True, slots=True)
class LocustLoad:
    """Users, shape and duration of a load. ``arguments`` are passed to Locust unchanged."""

    users: int
    spawn_rate: float
    seconds: float
    shape: str
    effect_seconds: float = 60.0
    batch_size: int = 100
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestStats:
    """Locust's statistics of one request type and name. ``times``: milliseconds -> count."""

    requests: int
    failures: int
    times: dict[float, int]
    longest: float

    def percentile(self, share: float) -> float | None:
        """Return the time in milliseconds that ``share`` of the requests did not exceed."""
        wanted = share * sum(self.times.values())
        for time in sorted(self.times):
            wanted -= self.times[time]
            if wanted <= 0:
                return min(time, self.longest)
        return None


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """The current state of the load; rates per second, times in milliseconds."""

    users: int
    submitted_per_second: float
    effect_p50: float | None
    effect_p99: float | None
    failures: int


class LocustRun:
    """One headless run against ``host`` that writes its files to ``out``."""

    def __init__(self, load: LocustLoad, host: str, run_id: str, out: Path) -> None:
        self.load = load
        self._host = host
        self._run_id = run_id
        self._out = out
        self._process: Process | None = None

    async def start(self) -> None:
        load = self.load
        options: dict[str, Any] = {
            "--locustfile": LOCUSTFILE,
            "--host": self._host,
            "--users": load.users,
            "--spawn-rate": load.spawn_rate,
            "--run-time": f"{math.ceil(load.seconds)}s",
            "--shape": load.shape,
            "--batch-size": load.batch_size,
            "--effect-seconds": load.effect_seconds,
            # Finish the watches that are open at the end; otherwise slow tasks would be missing.
            "--stop-timeout": f"{math.ceil(load.effect_seconds) + 5}s",
            "--run-id": self._run_id,
            "--csv": self._out / "locust",
            "--html": self._out / "locust.html",
            "--json-file": self._totals_file.with_suffix(""),  # Locust adds the .json
            "--logfile": self._out / "locust.log",
        }
        words = [str(word) for option in options.items() for word in option]
        arguments = ["locust", "--headless", "--csv-full-history", "--only-summary", *words]
        with (self._out / "locust.txt").open("wb") as output:
            self._process = await spawn(
                [*arguments, *load.arguments], {}, stdout=output.fileno(), stderr=STDOUT
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def wait(self) -> None:
        """Wait until Locust exits by itself.

        Raises:
            LoadtestError: Locust failed or wrote no statistics.
        """
        assert self._process is not None  # noqa: S101 - started before
        code = await self._process.wait()
        if code not in _MEASURED or not self._totals_file.exists():
            output = "\n".join(f"  {line}" for line in self._last_output()) or "  (nothing)"
            raise LoadtestError(f"Locust exited with code {code}; its output:\n{output}")

    async def stop(self) -> None:
        if self._process is not None:
            await end(self._process)

    def progress(self) -> LoadProgress | None:
        """Return the newest complete second of the history; None before the first."""
        rows = _last_second(self._out / "locust_stats_history.csv")
        total = rows.get(("", "Aggregated"))
        if total is None:
            return None
        effect = rows.get(EFFECT, {})
        return LoadProgress(
            users=int(total["User Count"]),
            submitted_per_second=_rate(rows.get(SINGLE))
            + _rate(rows.get(BATCH)) * self.load.batch_size,
            effect_p50=_number(effect.get("50%")),
            effect_p99=_number(effect.get("99%")),
            failures=int(total["Total Failure Count"]),
        )

    def tallies(self) -> dict[tuple[str, str], RequestStats]:
        """Return all request statistics, by type and name."""
        entries = orjson.loads(self._totals_file.read_bytes())
        return {
            (entry["method"], entry["name"]): RequestStats(
                requests=entry["num_requests"],
                failures=entry["num_failures"],
                times={float(time): count for time, count in entry["response_times"].items()},
                longest=float(entry["max_response_time"]),
            )
            for entry in entries
        }

    def failures(self) -> list[dict[str, str]]:
        """Return each kind of failure: Method, Name, Error, Occurrences."""
        with (self._out / "locust_failures.csv").open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))

    @property
    def _totals_file(self) -> Path:
        return self._out / "locust.json"

    def _last_output(self) -> Sequence[str]:
        files = [self._out / "locust.txt", self._out / "locust.log"]
        lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
        return lines[-20:]


def _last_second(history: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Return the rows of the last second that ends in an Aggregated row."""
    try:
        with history.open("rb") as file:
            header = file.readline()
            file.seek(max(len(header), file.seek(0, os.SEEK_END) - TAIL_BYTES))
            # Only the end of a long history is read; its first and last line may be incomplete.
            *lines, _ = file.read().decode(errors="replace").split("\n")
    except OSError:
        return {}
    rows = list(csv.DictReader([header.decode(), *lines]))
    while rows and rows[-1]["Name"] != "Aggregated":
        rows.pop()
    if not rows:
        return {}
    stamp = rows[-1]["Timestamp"]
    return {(row["Type"], row["Name"]): row for row in rows if row["Timestamp"] == stamp}


def _rate(row: dict[str, str] | None) -> float:
    return float(row["Requests/s"]) if row else 0.0


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:  # Locust writes N/A
        return None
