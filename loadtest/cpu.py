"""CPU time per task, which depends far less than rates on other load of the machine."""

from __future__ import annotations

import contextlib

import psutil


def tree_seconds() -> float:
    """User and system seconds of every living descendant of this process, servers included.

    Of a process that ended, nothing is known any more: take both samples while those that matter
    live. This process, which only looks on, is not counted.
    """
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total
