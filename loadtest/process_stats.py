"""Measure the processes below this one from outside: CPU time of all, memory per role."""

from __future__ import annotations

import contextlib
from collections import defaultdict

import psutil

ROLES = ("api", "scheduler", "worker")
# Every role is started as ``python -m PRODUCT_MODULE ROLE``.
PRODUCT_MODULE = "holdfast"


def cpu_seconds() -> float:
    """Return the user and system CPU seconds of all descendants, servers included.

    Those of an exited process count for its parent, or as ``other`` if it was started here. CPU
    time per task depends far less on other load of the machine than rates do.
    """
    return sum(cpu_seconds_by_part().values())


def cpu_seconds_by_part() -> dict[str, float]:
    """Return ``cpu_seconds`` of each role, of Postgres, and of everything else together."""
    spent: defaultdict[str, float] = defaultdict(float)
    this = psutil.Process()
    for process in this.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            exited = times.children_user + times.children_system
            spent[_part(process)] += times.user + times.system + exited
    times = this.cpu_times()
    spent["other"] += times.children_user + times.children_system
    return spent


def processes() -> dict[str, list[psutil.Process]]:
    """Return the descendants that run a role of the product, by role, oldest first."""
    found: defaultdict[str, list[psutil.Process]] = defaultdict(list)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if role := _role(process.cmdline()):
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


def _part(process: psutil.Process) -> str:
    if process.name() == "postgres":
        return "postgres"
    return _role(process.cmdline()) or "other"


def _role(arguments: list[str]) -> str | None:
    """Return the role that a command line starts; databases may be named like the module, too."""
    for flag, module, role in zip(arguments, arguments[1:], arguments[2:], strict=False):
        if (flag, module) == ("-m", PRODUCT_MODULE) and role in ROLES:
            return role
    return None
