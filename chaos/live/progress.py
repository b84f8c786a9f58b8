"""Show the progress of a run: one updating line on a terminal, sparse lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_SPARSE_SECONDS = 5.0
_CLEAR = "\r\x1b[K"


class RunProgress:
    """Shows the phase, its seconds, and the counts of one scenario."""

    def __init__(self, scenario: str, stream: TextIO | None = None) -> None:
        self._scenario = scenario
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._started = time.monotonic()
        self._phase = ""
        self._shown_at = 0.0

    def show(self, phase: str, detail: str = "") -> None:
        """Show the phase and its detail; a new phase is shown immediately."""
        now = time.monotonic()
        new = phase != self._phase
        if not (self._live or new or now - self._shown_at >= _SPARSE_SECONDS):
            return
        self._phase, self._shown_at = phase, now
        line = f"{self._scenario:<18} {now - self._started:5.1f} s  {phase:<9} {detail}".rstrip()
        if self._live:
            self._stream.write(f"{_CLEAR}{line[:120]}")
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """Clear the updating line."""
        if self._live:
            self._stream.write(_CLEAR)
            self._stream.flush()
