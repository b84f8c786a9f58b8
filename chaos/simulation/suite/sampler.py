"""Measure where the time of a simulated run goes by sampling the stack every millisecond."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from chaos.simulation.kernel.node import NODE

_EVERY_SECONDS = 0.001
_ROOT = str(Path(__file__).parents[3])
_HERE = str(Path(__file__).parents[1])
_TESTBED = f"{_ROOT}/chaos"
# Their frames are on the stack while the process waits for a real server.
_WAITING = {
    f"{_HERE}/postgres/backend.py": "Postgres",
    f"{_HERE}/postgres/server.py": "Postgres",
    f"{_HERE}/valkey/server.py": "Valkey",
}
_LIBRARY = "site-packages"
_ROLES = ("api", "scheduler", "worker")


class StackSampler:
    """Counts samples by component; ``on`` must be used on the main thread."""

    def __init__(self) -> None:
        self._found: Counter[str] = Counter()

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Sample inside the block."""
        before = signal.signal(signal.SIGALRM, self._sample)
        signal.setitimer(signal.ITIMER_REAL, _EVERY_SECONDS, _EVERY_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the time: "product" (with its libraries), "Postgres", "Valkey", "arena"."""
        total = self._found.total()
        return {who: count / total for who, count in self._found.items()}

    def _sample(self, _: int, frame: FrameType | None) -> None:
        self._found[_at_work(frame)] += 1


def _at_work(frame: FrameType | None) -> str:
    """Attribute a sample to the innermost frame outside the standard library."""
    node = NODE.get(None)
    role = node is not None and node.name.partition("-")[0] in _ROLES
    who = ""
    while frame is not None:
        path = frame.f_code.co_filename
        if path in _WAITING:
            return _WAITING[path]
        if not who and (path.startswith(_ROOT) or _LIBRARY in path):
            # A library works for the process whose step is running.
            who = "product" if role and not path.startswith(_TESTBED) else "arena"
        frame = frame.f_back
    return who or "arena"
