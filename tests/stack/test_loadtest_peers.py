"""Peers compared with Holdfast at a small size: one on Redis and one on Postgres."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import pytest
from leftovers import processes_of
from loadtest_runs import RUN_SECONDS, loadtest

from loadtest.drain_results import Round
from loadtest.machine import Machine
from loadtest.peers.compare import SHARES, Comparison, Row
from loadtest.peers.environments import LOCKS
from loadtest.peers.peer_api import PeerConfig
from loadtest.peers.peer_process import NAMES

PEERS = Path(__file__).parents[2] / "loadtest" / "peers"
FUNCTIONS = {"prepare", "enqueue", "work", "counter"}
CONSTANTS = {"PACKAGES", "SETTINGS", "SUPERVISES"}


@pytest.mark.parametrize("name", NAMES)
def test_every_peer_implements_the_contract(name: str) -> None:
    body = ast.parse((PEERS / f"{name}_peer.py").read_text()).body
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    assert functions >= FUNCTIONS
    assigned = [node.targets[0] for node in body if isinstance(node, ast.Assign)]
    named = {target.id for target in assigned if isinstance(target, ast.Name)}
    assert named >= CONSTANTS
    assert name in SHARES
    lock = (LOCKS / f"{name}.txt").read_text()
    for wanted in (LOCKS / f"{name}.in").read_text().splitlines():
        package = re.split(r"[\[>]", wanted)[0]
        assert re.search(rf"^{package}(\[\w+\])?==", lock, re.MULTILINE), "pinned"
    assert "--hash=" in lock


@pytest.mark.timeout(2 * RUN_SECONDS)
def test_peers_and_holdfast_are_measured_alternately(temporary: Path, tmp_path: Path) -> None:
    out = tmp_path / "peers"
    sizes = ["--rounds", "1", "--tasks", "200", "--out", str(out)]
    run = loadtest(temporary, "peers", "--only", "dramatiq", "--only", "pgqueuer", *sizes)
    assert run.returncode == 0, run.stderr
    assert processes_of(temporary) == []
    measured = json.loads((out / "peers.json").read_text())
    rows = {(row["who"], row["setting"]): row for row in measured["rows"]}
    assert list(rows) == [
        ("Holdfast", "best"),
        ("Holdfast", "defaults"),
        ("Holdfast", "best, all traced"),
        *[(name, setting) for name in ("dramatiq", "pgqueuer") for setting in ("best", "durable")],
    ]
    spans = {setting: row["spans"] for (who, setting), row in rows.items() if who == "Holdfast"}
    assert spans["best, all traced"][0] > 5 > spans["best"][0]
    for (who, _), row in rows.items():
        assert row["rounds"][0]["submitted_per_second"] > 0
        assert row["rounds"][0]["drained_per_second"] > 0
        assert row["rounds"][0]["tasks"] == (100 if who == "dramatiq" else 200)
        assert row["versions"]
    assert (out / "peers.md").read_text() == run.stdout
    assert "| pgqueuer, durable | pgqueuer " in run.stdout


def test_table_shows_medians_and_ratios_per_round() -> None:
    ours = Row("Holdfast", "best", {"python": "3"}, "all", [Round(9, 10, 600, 1)] * 2)
    theirs = Row("x", "best", {"x": "1.0"}, "fast", [Round(9, 10, 300, 2), Round(9, 10, 200, 2)])
    comparison = Comparison(Machine(2, 5.0, "3.11", "Linux"), 2, [ours, theirs])
    assert comparison.ratios(theirs) == [2, 3]
    table = comparison.markdown()
    assert "| x | best | 10 (10..10) | 250 (200..300) | 2.5 times (2.0..3.0) | 2.00" in table
    assert "**The machine was busy before the run began" in table
    idle = Comparison(Machine(2, 0.1, "3.11", "Linux"), 2, [ours, theirs])
    assert "busy" not in idle.markdown()


def test_peer_config_survives_the_environment() -> None:
    config = PeerConfig("postgresql://x/y", "redis://z/1", "best", 7, 3)
    assert PeerConfig.from_environment(config.environment() | dict(os.environ)) == config
    assert not config.durable
