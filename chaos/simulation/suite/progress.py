"""Show the progress of a simulated suite: one updating line on a terminal, else sparse lines."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TextIO

from chaos.report.outcome import Outcome

_SPARSE_SECONDS = 10.0
_CLEAR = "\r\x1b[K"


class SuiteProgress:
    """Counts seeds, virtual time, verdicts and violations so far."""

    def __init__(self, planned: int, stream: TextIO | None = None) -> None:
        self._planned = planned
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._started = self._shown_at = time.monotonic()
        self._virtual = 0.0
        self._verdicts: Counter[str] = Counter()
        self._violations = 0

    def add(self, outcome: Outcome, virtual_seconds: float) -> None:
        """Count a finished seed."""
        self._verdicts[outcome.verdict] += 1
        self._violations += sum((outcome.laws or {}).values())
        self._virtual += virtual_seconds
        now = time.monotonic()
        if self._live or now - self._shown_at >= _SPARSE_SECONDS:
            self._shown_at = now
            self._show(now - self._started)

    def close(self) -> None:
        """Clear the updating line."""
        if self._live:
            self._stream.write(_CLEAR)
            self._stream.flush()

    def _show(self, seconds: float) -> None:
        done = self._verdicts.total()
        line = (
            f"{done}/{self._planned} seeds, {seconds:.0f} s, {self._virtual:.0f} virtual s, "
            f"{self._violations} violations, {self._verdicts['unknown']} unknown"
        )
        self._stream.write(f"{_CLEAR}{line}" if self._live else f"{line}\n")
        self._stream.flush()
