"""Which core a simulating process gets for itself, with its servers.

It waits whenever one of its servers works, and the other way round: so they lose nothing by sharing
a core, and need not wake up another one for each statement (a third less time on two cores).
"""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter


class Cores:
    """The cores that this process may use, and how many simulating processes each has."""

    def __init__(self) -> None:
        # Only Linux can pin a process. Whose turn is first is drawn: there may be others like us.
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        random.shuffle(cores)
        self._users = Counter(dict.fromkeys(cores, 0))
        self._core_of: dict[int, int] = {}

    def give(self, pid: int) -> None:
        """Pins a process, before it has started its servers, to the core with the fewest others."""
        if not self._users:
            return
        core = min(self._users, key=self._users.__getitem__)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.sched_setaffinity(pid, {core})
            self._users[core] += 1
            self._core_of[pid] = core

    def take_back(self, pid: int) -> None:
        """The process has ended."""
        if pid in self._core_of:
            self._users[self._core_of.pop(pid)] -= 1
