"""Run ``python -m chaos`` as a user would, on a small scenario, in a separate directory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from chaos.mutants import import_path
from holdfast.devstack.host import temporary_directory
from holdfast.devstack.reaper import Reaper

ROOT = Path(__file__).parents[2]
SMALL = {
    "id": "small",
    "hypothesis": "A worker killed during a small load loses no task.",
    "topology": {
        "schedulers": 1,
        "workers": 2,
        "settings": {
            "lease_seconds": 1.5,
            "heartbeat_seconds": 0.4,
            "poll_seconds": 0.1,
            "hint_deadline_seconds": 1,
            "shutdown_grace_seconds": 2,
            "worker_concurrency": 10,
        },
    },
    "workload": {
        "tasks": 40,
        "seconds": 3,
        "effects": {"ledger": 1, "sql": 1, "external": 1},
        "repeats": 0.2,
        "reads": 0.3,
        "batch": 3,
        "handler_seconds": [0.2, 0.5],
    },
    "faults": [
        {
            "name": "murder",
            "fault": "kill",
            "target": "worker-1",
            "after": {"event": "claimed", "actor": "worker-1", "count": 2},
            "for": 0.5,
        },
        {
            "name": "wrong_clock",
            "fault": "skew",
            "target": "scheduler-1",
            "attributes": {"seconds": 3600},
            "at": 0.5,
            "for": 1.5,
        },
    ],
    "survivors": {"workers": 1},
    "expect": {"sometimes": ["lease_lost", "worker_replaced", "submit_repeated"]},
}

RUN_SECONDS = 300
"""Longest time of one run, on a busy machine."""

Chaos = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def home(reaper: Reaper) -> Iterator[Path]:
    """Yield a directory readable by the servers' user; pytest's are not."""
    directory = temporary_directory("holdfast-test-")
    reaper.own_directory(directory)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def chaos(home: Path) -> Iterator[Chaos]:
    """Yield a function that starts ``python -m chaos`` with ``home`` as temporary directory."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "chaos", *arguments],
            cwd=home,
            env=dict(os.environ) | {"PYTHONPATH": import_path(ROOT), "TMPDIR": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Background jobs of a shell ignore SIGINT, and their children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def scenario_file(home: Path) -> Path:
    path = home / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path
