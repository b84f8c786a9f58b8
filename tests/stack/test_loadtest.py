"""The drain from the command line, at a size that proves it works rather than how fast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from leftovers import processes_of
from loadtest_runs import RUN_SECONDS, interrupted, loadtest

from holdfast.devstack import up_environment
from loadtest.database_probe import LatencySummary
from loadtest.drain_results import Figures, Round, spread
from loadtest.stack import find_urls


@pytest.mark.timeout(RUN_SECONDS)
def test_drain_measures_both_and_cleans_up(temporary: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    sizes = "--tasks 300 --rounds 1 --peer-tasks 40 --rate 50 --latency-seconds 1"
    run = loadtest(temporary, "drain", *sizes.split(), "--json", str(figures))
    assert run.returncode == 0, run.stderr
    assert "Holdfast" in run.stdout
    assert "Procrastinate" in run.stdout
    measured = json.loads(figures.read_text())
    assert measured["holdfast"][0]["tasks"] == 300
    assert measured["holdfast"][0]["submitted_per_second"] > 0
    assert measured["procrastinate"][0]["drained_per_second"] > 0
    assert len(measured["ratio"]) == 1
    assert len(measured["latency"]) == 2
    for latency in measured["latency"].values():
        assert latency["count"] == 25
        assert 0 <= latency["p50"] <= latency["p99"] <= latency["max"] < 30
    assert processes_of(temporary) == []


@pytest.mark.timeout(RUN_SECONDS)
def test_drain_of_transactions_is_measured_beside_bare_ones(
    temporary: Path, tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"
    sizes = "--effect transaction --tasks 200 --rounds 1 --rate 50 --latency-seconds 1"
    run = loadtest(temporary, "drain", *sizes.split(), "--json", str(figures))
    assert run.returncode == 0, run.stderr
    assert "bare SQL: p50" in run.stdout
    measured = json.loads(figures.read_text())
    assert measured["bare"][0]["per_second"] > 0
    assert measured["ratio"][0] > 0
    assert set(measured["holdfast"][0]["cpu_ms_by_part"]) >= {"worker", "postgres", "api"}
    for latency in (measured["handler"], measured["sql"]):
        assert latency["count"] == 50
        assert 0 < latency["p50"] <= latency["p99"] < 30
    assert processes_of(temporary) == []


def test_interrupted_drain_cleans_up(temporary: Path) -> None:
    output = interrupted(temporary, "up at", "drain", "--tasks", "100000", "--peer-tasks", "0")
    assert "interrupted" in output
    assert processes_of(temporary) == []


def test_a_stack_that_fails_to_start_is_explained(temporary: Path) -> None:
    arguments = ["drain", "--peer-tasks", "0"]
    run = loadtest(temporary, *arguments, HOLDFAST_LEASE_SECONDS="-1")
    assert run.returncode == 1
    assert "`python -m holdfast up` did not come up; its output:" in run.stderr
    assert "HOLDFAST_LEASE_SECONDS" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drain", "--tasks", "0"], "--tasks"),
        (["drain", "--rounds", "none"], "--rounds"),
        (["drain", "--json", "/no/such/directory/x.json"], "no such directory"),
        (["race"], "No such command"),
        (["load", "--out", "."], "exists"),
        (["load", "--shape", "round"], "--shape"),
        (["peers", "--only", "airflow"], "airflow is not one of celery"),
        (["peers", "--effect", "ledger", "--only", "rq"], "rq has no handler for --effect"),
        (["scale", "--json", "/no/such/directory/x.json"], "no such directory"),
    ],
)
def test_invalid_arguments_are_explained(
    arguments: list[str], message: str, temporary: Path
) -> None:
    run = loadtest(temporary, *arguments)
    assert run.returncode == 2
    assert message in run.stderr


def test_urls_are_found_once_up_names_its_api(tmp_path: Path) -> None:
    servers = {
        "HOLDFAST_DATABASE_URL": "postgresql://postgres:pw@127.0.0.1:1/holdfast?x=1",
        "HOLDFAST_REDIS_URL": "redis://:pw@127.0.0.1:2/0",
    }
    assert find_urls("holdfast    | starting Postgres and Valkey, data in /x", tmp_path) == {}
    up_environment.write(tmp_path, servers)
    line = "holdfast    |   interactive API docs   http://127.0.0.1:8000/docs"
    assert find_urls(line, tmp_path) == {"api": "http://127.0.0.1:8000", **servers}


def test_figures_show_median_and_spread() -> None:
    assert spread([1500.4]) == "1,500"
    short = Figures(holdfast=[Round(1, 10, 10, float("nan"))]).as_json()
    assert json.loads(json.dumps(short, allow_nan=False))["holdfast"][0]["cpu_ms_per_task"] is None
    assert spread([3000, 1000, 2000]) == "2,000 (1,000..3,000)"
    figures = Figures(
        holdfast=[Round(10, 1000, 600, 0.5), Round(10, 2000, 900, 0.5)],
        procrastinate=[Round(10, 500, 100, 2.0), Round(10, 500, 100, 3.0)],
        latency={"due -> start": LatencySummary(7, 0.001, 0.0205, 0.5)},
    )
    assert figures.ratios() == [6, 9]
    assert figures.cpu_ratios() == [4, 6]
    text = "\n".join(figures.lines())
    assert "1,500 (1,000..2,000)" in text
    assert "7.5x (6.0..9.0)" in text
    assert "5.0x (4.0..6.0)" in text
    assert "due -> start: p50 1.0 ms, p99 20.5 ms, max 500.0 ms over 7 tasks" in text
