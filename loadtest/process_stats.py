"""Find the product's processes by role and measure their memory from outside."""

from __future__ import annotations

import contextlib
from collections import defaultdict

import psutil

ROLES = ("api", "scheduler", "worker")
# The module that every role is started with: ``python -m PRODUCT_MODULE ROLE``.
PRODUCT_MODULE = "holdfast"


def processes() -> dict[str, list[psutil.Process]]:
    """Return the descendants that run ``python -m PRODUCT_MODULE ROLE`` by role, oldest first."""
    found: defaultdict[str, list[psutil.Process]] = defaultdict(list)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            if PRODUCT_MODULE not in words:
                continue
            if (role := words[words.index(PRODUCT_MODULE) + 1]) in ROLES:
                found[role].append(process)
    return {role: sorted(each, key=lambda one: one.create_time()) for role, each in found.items()}


def megabytes() -> dict[str, float]:
    """Return the resident memory in MB of the largest process of each role."""
    sizes: defaultdict[str, float] = defaultdict(float)
    for role, each in processes().items():
        for process in each:
            with contextlib.suppress(psutil.NoSuchProcess):
                sizes[role] = max(sizes[role], process.memory_info().rss / 1e6)
    return dict(sizes)
