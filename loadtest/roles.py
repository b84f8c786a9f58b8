"""Which process plays which role, and how much memory it holds: seen from outside."""

from __future__ import annotations

import contextlib
from collections import defaultdict

import psutil

ROLES = ("api", "scheduler", "worker")


def processes() -> dict[str, list[psutil.Process]]:
    """The processes below this one that are ``python -m system ROLE``, oldest first."""
    found: defaultdict[str, list[psutil.Process]] = defaultdict(list)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            if "system" in words and (role := words[words.index("system") + 1]) in ROLES:
                found[role].append(process)
    return {role: sorted(each, key=lambda one: one.create_time()) for role, each in found.items()}


def megabytes() -> dict[str, float]:
    """Resident memory of each role, in MB: of the largest of its processes."""
    sizes: defaultdict[str, float] = defaultdict(float)
    for role, each in processes().items():
        for process in each:
            with contextlib.suppress(psutil.NoSuchProcess):
                sizes[role] = max(sizes[role], process.memory_info().rss / 1e6)
    return dict(sizes)
