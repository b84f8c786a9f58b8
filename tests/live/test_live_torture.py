"""A short torture run from the command line."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from chaos_runs import RUN_SECONDS, Chaos, chaos, home
from leftovers import processes_of

__all__ = ["chaos", "home"]  # fixtures


@pytest.mark.timeout(RUN_SECONDS)
def test_nothing_is_lost_or_doubled(chaos: Chaos, home: Path) -> None:
    run = chaos("torture", "--seconds", "12", "--seed", "1", "--rate", "5")
    output, _ = run.communicate(timeout=RUN_SECONDS)
    assert run.returncode == 0, output
    for name in ("lost", "unfinished", "doubled", "wrong", "refused"):
        assert f"{name:<11} 0\n" in output
    assert "replay: python -m chaos torture --seconds 12 --seed 1 --rate 5" in output
    assert processes_of(home) == []


@pytest.mark.timeout(RUN_SECONDS)
def test_interrupted_torture_cleans_up(chaos: Chaos, home: Path) -> None:
    """Also while processes are stopped, which cannot react to a signal."""
    run = chaos("torture", "--seconds", "600", "--seed", "1")
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("striking"):
            break
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=RUN_SECONDS)
    assert run.returncode != 0
    assert processes_of(home) == []
