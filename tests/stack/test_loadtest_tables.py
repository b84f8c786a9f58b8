"""submit, profile, scale and soak at sizes that prove they work; their figures mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from leftovers import processes_of
from loadtest_runs import RUN_SECONDS, loadtest

pytestmark = pytest.mark.timeout(RUN_SECONDS)


def test_profile_shows_statements_and_functions(temporary: Path, tmp_path: Path) -> None:
    out = tmp_path / "profile"
    run = loadtest(temporary, "profile", "--tasks", "2000", "--out", str(out))
    assert run.returncode == 0, run.stderr
    assert processes_of(temporary) == []
    assert "measured by pg_stat_statements" in run.stdout
    measured = json.loads((out / "profile.json").read_text())
    submit, drain = measured["phases"]
    assert (submit["name"], drain["name"]) == ("submit", "drain")
    submits = "INSERT INTO holdfast.tasks"
    inserts = [each for each in submit["statements"] if submits in each["text"]]
    assert inserts
    assert 0 < inserts[0]["calls"] < 2000, "batches"
    effects = "INSERT INTO holdfast.effects"
    ledger = [each for each in drain["statements"] if effects in each["text"]]
    assert sum(each["share"] for each in drain["statements"]) == pytest.approx(1)
    assert ledger
    roles = {each["role"]: each for phase in measured["phases"] for each in phase["sampled"]}
    assert set(roles) == {"api", "scheduler", "worker"}
    assert roles["api"]["samples"] > 0
    assert any("holdfast/api/" in each["name"] for each in roles["api"]["functions"])
    assert (out / "drain-worker.folded").exists()


def test_profile_without_the_extension_samples_activity(temporary: Path, tmp_path: Path) -> None:
    out = tmp_path / "profile"
    options = ["--no-extension", "--no-python", "--tasks", "4000", "--out", str(out)]
    run = loadtest(temporary, "profile", *options)
    assert run.returncode == 0, run.stderr
    assert "sampled without pg_stat_statements" in run.stdout
    drain = json.loads((out / "profile.json").read_text())["phases"][1]
    assert drain["sampled"] == []
    assert any("UPDATE holdfast.tasks" in each["text"] for each in drain["statements"])
    assert all(each["calls"] is None for each in drain["statements"])


def test_scale_fills_the_tables_and_measures(temporary: Path, tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    sizes = [
        "--future",
        "3000",
        "--finished",
        "2000",
        "--tasks",
        "300",
        "--rounds",
        "1",
        "--share-min",
        "0",
        "--payload-bytes",
        "1000",
    ]
    run = loadtest(temporary, "scale", *sizes, "--json", str(file))
    assert run.returncode == 0, run.stderr
    assert processes_of(temporary) == []
    measured = json.loads(file.read_text())
    rows = {size["name"]: size["rows"] for size in measured["sizes"]}
    # And the two specimens, with the events that each has.
    assert rows == {
        "tasks": 5002,
        "requests": 5002,
        "effects": 2001,
        "task_events": 2001 * 4 + 3001,
    }
    tables = {size["name"]: size["table_bytes"] for size in measured["sizes"]}
    assert tables["requests"] > 5002 * 1000
    assert len(measured["empty"]) == 2
    assert len(measured["full"]) == 1
    assert measured["share"] > 0
    assert "with the large table" in run.stdout


def test_scale_without_disk_space_is_explained(temporary: Path) -> None:
    run = loadtest(temporary, "scale", "--future", "900000000000")
    assert run.returncode == 1
    assert "set TMPDIR to a larger disk" in run.stderr


def test_share_below_the_limit_is_reported(temporary: Path) -> None:
    sizes = [
        "--future",
        "10",
        "--finished",
        "10",
        "--tasks",
        "100",
        "--rounds",
        "1",
        "--share-min",
        "1000",
    ]
    run = loadtest(temporary, "scale", *sizes)
    assert run.returncode == 3, run.stderr
    assert "MISSED" in run.stdout


def test_soak_reports_and_draws_growth(temporary: Path, tmp_path: Path) -> None:
    out = tmp_path / "soak"
    sizes = ["--minutes", "0.15", "--rate", "50", "--every", "1", "--growth-max", "1000"]
    run = loadtest(temporary, "soak", *sizes, "--out", str(out))
    assert run.returncode == 0, run.stderr
    assert processes_of(temporary) == []
    measured = json.loads((out / "soak.json").read_text())
    assert measured["sent"] == 450
    assert measured["flat"]
    last = measured["samples"][-1]
    assert last["tables"]["tasks"]["live"] > 0
    assert all(last["memory"][role] > 10 for role in ("api", "scheduler", "worker"))
    assert set(measured["growth"]) >= {"memory worker", "size tasks", "index tasks", "dead tasks"}
    page = (out / "soak.html").read_text()
    assert page.count("<svg") == 5
    assert "src=" not in page


def test_submits_are_measured_by_each_method(temporary: Path, tmp_path: Path) -> None:
    file = tmp_path / "submit.json"
    sizes = ["--rounds", "1", "--tasks", "1000", "--singly", "20"]
    run = loadtest(temporary, "submit", "--no-wrk", *sizes, "--json", str(file))
    assert run.returncode == 0, run.stderr
    assert processes_of(temporary) == []
    measured = json.loads(file.read_text())
    assert measured["posted"] == []
    assert all(measured[way][0] > 0 for way in ("batched", "singly", "together"))
    assert len(measured["idle"]) == 200
    assert "idle: submitted -> SUCCEEDED" in run.stdout


def test_missing_wrk_is_reported_before_anything_is_started(temporary: Path) -> None:
    run = loadtest(temporary, "submit", PATH="/nowhere")
    assert run.returncode == 1
    assert "wrk is not on PATH" in run.stderr
    assert "starting" not in run.stderr
