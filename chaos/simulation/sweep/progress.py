"""Show the progress of a crash sweep, and a table of its schedules and verdicts."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TextIO

import typer

from chaos.simulation.sweep.trial import Verdict

_SPARSE_SECONDS = 10.0
_CLEAR = "\r\x1b[K"
_COLUMNS = ("exist", "run", "true", "idle", "false", "unknown")


class SweepProgress:
    """Counts schedules by scope and kind.

    ``idle``: the true ones whose faults were injected while no task was in flight; they show only
    that the fault is harmless.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._started = self._shown_at = time.monotonic()
        self._rows: dict[tuple[str, str], Counter[str]] = {}
        self._total: Counter[str] = Counter()
        self._expected = 0
        self._about: list[str] = []
        self._sound = True
        self._simulated = 0.0

    @property
    def all_true(self) -> bool:
        """Whether all expected schedules ran (at least one) and every verdict is true."""
        total = self._total
        return self._sound and 0 < total["run"] == total["true"] == self._expected

    def begin(self, scope: str, undisturbed: Verdict) -> None:
        """Describe a scope by its undisturbed run, whose messages are the points of injection."""
        self._sound = self._sound and undisturbed.verdict == "true"
        changing = sum(point.changes for point in undisturbed.points)
        self._about.append(
            f"{scope}: {len(undisturbed.points)} messages from the first start to the heal, "
            f"{changing} of which change something; excluded: {undisturbed.late} after the heal "
            "and those of the harness"
        )

    def exists(self, scope: str, kind: str, count: int = 1) -> None:
        """Count schedules of this kind that exist."""
        self._row(scope, kind)["exist"] += count

    def expect(self, count: int) -> None:
        """Count schedules that will run."""
        self._expected += count

    def add(self, scope: str, verdict: Verdict, kind: str = "") -> None:
        """Count a schedule that ran."""
        row = self._row(scope, kind)
        for counter in (row, self._total):
            counter["run"] += 1
            counter[verdict.verdict] += 1
            counter["idle"] += verdict.verdict == "true" and verdict.idle
        row["milliseconds"] += round(verdict.seconds * 1000)
        self._progress()

    def show(self, *lines: str) -> None:
        """Print lines above the progress."""
        if self._live:
            self._stream.write(_CLEAR)
            self._stream.flush()
        typer.echo("\n".join(lines))

    def close(self) -> None:
        """Print the table."""
        total, seconds = self._total, time.monotonic() - self._started
        rows = [f"{'':<60}" + "".join(f"{name:>9}" for name in _COLUMNS) + f"{'s each':>9}"]
        for (scope, kind), row in self._rows.items():
            counts = "".join(f"{row[name]:>9}" for name in _COLUMNS)
            each = f"{row['milliseconds'] / 1000 / row['run']:>9.2f}" if row["run"] else ""
            rows.append(f"{f'{scope}: {kind}':<60}{counts}{each}")
        totals = f"{total['run']} of {self._expected} schedules run in {seconds:.0f} s: "
        totals += ", ".join(f"{total[name]} {name}" for name in ("true", "false", "unknown"))
        self.show(*self._about, *rows, totals)

    def _row(self, scope: str, kind: str) -> Counter[str]:
        return self._rows.setdefault((scope, kind), Counter())

    def _progress(self) -> None:
        now = time.monotonic()
        if not self._live and now - self._shown_at < _SPARSE_SECONDS:
            return
        self._shown_at = now
        total = self._total
        line = (
            f"{total['run']}/{self._expected} schedules, {now - self._started:.0f} s, "
            f"{total['false']} violated, {total['unknown']} unknown"
        )
        self._stream.write(f"{_CLEAR}{line}" if self._live else f"{line}\n")
        self._stream.flush()
