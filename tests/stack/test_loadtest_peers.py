"""Peers compared with Holdfast at a small size: one on Redis and one on Postgres."""

from __future__ import annotations

import ast
import json
import math
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
from loadtest.peers.peer_process import NAMES, REDELIVERY_SECONDS

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
    assert ("EFFECT" in named) == (name in REDELIVERY_SECONDS)
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


@pytest.mark.timeout(2 * RUN_SECONDS)
@pytest.mark.parametrize(("effect", "peer"), [("ledger", "dramatiq"), ("transaction", "pgqueuer")])
def test_each_task_leaves_one_row_although_a_worker_is_killed(
    effect: str, peer: str, temporary: Path, tmp_path: Path
) -> None:
    sizes = ["--rounds", "1", "--tasks", "6000", "--payload-bytes", "1000", "--out", str(tmp_path)]
    run = loadtest(temporary, "peers", "--effect", effect, "--only", peer, *sizes)
    assert run.returncode == 0, run.stderr
    assert processes_of(temporary) == []
    measured = json.loads((tmp_path / "peers.json").read_text())
    assert (measured["effect"], measured["payload_bytes"]) == (effect, 1000)
    rows = {(row["who"], row["setting"]): row["rounds"] for row in measured["rows"]}
    ours = [("Holdfast", "best")] if effect == "ledger" else []
    ours += [("Holdfast", "defaults")]
    assert list(rows) == [*ours, (peer, "durable")]
    for [measured_round] in rows.values():
        assert measured_round["fault"] == ""
        assert measured_round["drained_per_second"] > 0
        assert measured_round["cpu_ms_per_task"] > 0


def test_row_of_a_system_that_lost_an_effect_has_no_rate() -> None:
    ours = Row("Holdfast", "best", {"python": "3"}, "all", [Round(9, 10, 600, 1)] * 2)
    lost = Round(9, 10, math.nan, math.nan, fault="9 tasks left 8 rows, for 8 of the tasks")
    theirs = Row("x", "durable", {"x": "1.0"}, "fast", [Round(9, 10, 300, 2), lost])
    comparison = Comparison(Machine(2, 0.1, "3.11", "Linux"), 2, [ours, theirs], 30, "ledger")
    table = comparison.markdown()
    assert "one row in Postgres for each task (ledger), payloads of 30 bytes" in table
    row = "| x | durable | 10 (10..10) | no rate: 9 tasks left 8 rows, for 8 of the tasks | | | 9 |"
    assert row in table
    assert comparison.as_json()["rows"][1]["ratios"] == [2, None]


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
    config = PeerConfig("postgresql://x/y", "redis://z/1", "best", 7, 3, 1000, "transaction")
    assert PeerConfig.from_environment(config.environment() | dict(os.environ)) == config
    assert not config.durable
    assert (
        len(json.dumps({"number": 12345, "filler": config.filler}, separators=(",", ":"))) == 1000
    )
    assert config.row(4, "text") == (4, "text")
