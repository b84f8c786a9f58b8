"""Run ``python -m loadtest`` as a user would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

RUN_SECONDS = 300
"""Limit of one run, on a busy machine that first creates the environment of a peer."""


def loadtest(
    temporary: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run to the end and return the completed process."""
    return subprocess.run(
        [sys.executable, "-m", "loadtest", *arguments],
        env=_environment(temporary, environment),
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


def interrupted(temporary: Path, after: str, *arguments: str) -> str:
    """Interrupt a run after the line with ``after``; return what it printed from then on."""
    run = subprocess.Popen(
        [sys.executable, "-m", "loadtest", *arguments],
        env=_environment(temporary, {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stderr is not None
    try:
        line = ""
        while after not in line:
            line = run.stderr.readline()
            assert line, f"it ended before it printed {after!r}"
        run.send_signal(signal.SIGINT)
        said = run.stderr.read()
        assert run.wait(60) == 130
    finally:
        run.kill()
        run.wait()
        run.stderr.close()
    return said


def _environment(temporary: Path, more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(temporary), **more}
