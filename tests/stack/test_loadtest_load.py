"""Locust's users, headless and distributed, and ``python -m loadtest load`` around them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from leftovers import processes_of
from loadtest_runs import RUN_SECONDS, interrupted, loadtest

from holdfast.devstack.host import temporary_directory
from loadtest.stack import find_urls

LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
SMALL = ["--users", "10", "--spawn-rate", "20", "--seconds", "6", "--batch-size", "20"]
LENIENT = "submitted_per_second: {min: 1}\nmissing: {max: 0}\nunfinished: {max: 0}\n"

pytestmark = pytest.mark.timeout(RUN_SECONDS)


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    """The URL of a Holdfast that runs."""
    place = temporary_directory("holdfast-test-")
    arguments = ["up", "--data-dir", str(place), "--schedulers", "1", "--workers", "1"]
    up = subprocess.Popen(
        [sys.executable, "-m", "holdfast", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert up.stdout is not None
    try:
        found: dict[str, str] = {}
        while not found:
            line = up.stdout.readline()
            assert line, "it did not come up"
            found = find_urls(line, place)
        yield found["api"]
    finally:
        up.terminate()
        up.communicate(timeout=60)
        shutil.rmtree(place)


def lenient(tmp_path: Path) -> list[str]:
    limits = tmp_path / "limits.yaml"
    limits.write_text(LENIENT)
    return ["--thresholds", str(limits)]


def test_embedded_run_leaves_only_its_files(temporary: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = loadtest(temporary, "load", *SMALL, *lenient(tmp_path), "--out", str(out))
    assert run.returncode == 0, run.stderr
    assert "submitted_per_second" in run.stdout
    assert processes_of(temporary) == []
    wanted = {"locust.html", "locust_stats.csv", "locust_failures.csv", "summary.html"}
    assert wanted <= {path.name for path in out.iterdir()}
    summary = json.loads((out / "summary.json").read_text())
    figures = summary["figures"]
    assert summary["passed"]
    assert figures["failures"] == figures["missing"] == figures["unfinished"] == 0
    assert figures["effects_watched"] > 0
    assert 0 < figures["effect_p50_ms"] <= figures["effect_p99_ms"] <= figures["effect_max_ms"]
    assert sum(summary["curves"]["stored"]) == sum(summary["curves"]["drained"])
    assert summary["curves"]["waiting"][-1] == 0
    page = (out / "summary.html").read_text()
    assert page.count("<path") >= 5
    assert "src=" not in page
    assert "http-equiv" in page


def test_missed_limit_sets_the_exit_code(api: str, temporary: Path, tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text("submitted_per_second: {min: 1000000}\nmissing: {max: 0}\n")
    out = tmp_path / "run"
    arguments = ["--host", api, "--thresholds", str(limits), "--out", str(out)]
    run = loadtest(temporary, "load", *SMALL, *arguments, "--", "--tags", "submit", "cancel")
    assert run.returncode == 3, run.stderr
    assert "MISSED: submitted_per_second" in run.stdout
    assert "MISSED: missing" not in run.stdout
    figures = json.loads((out / "summary.json").read_text())["figures"]
    assert figures["effects_watched"] == 0
    assert figures["effect_p50_ms"] is None
    assert "limits missed" in (out / "summary.html").read_text()


def test_interrupted_load_leaves_no_process_and_no_file(temporary: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["--seconds", "300", "--out", str(out)]
    output = interrupted(temporary, "s of 300", "load", *arguments)
    assert "interrupted" in output
    assert processes_of(temporary) == []
    assert not out.exists()


def test_unreachable_host_is_explained(temporary: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    out = tmp_path / "run"
    run = loadtest(temporary, "load", "--host", f"http://127.0.0.1:{port}", "--out", str(out))
    assert run.returncode == 1
    assert "GET /tasks/ failed" in run.stderr
    assert not out.exists()


@pytest.mark.stack
def test_distributed_run_with_tags_and_a_shape(api: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    locust = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE)]
    worker = subprocess.Popen(
        [*locust, "--worker", "--master-port", port], stderr=subprocess.DEVNULL
    )
    stats = tmp_path / "stats"
    try:
        options = ["--master", "--master-bind-port", port, "--expect-workers", "1", "--headless"]
        options += ["--host", api, "--users", "10", "--run-time", "6s", "--shape", "ramp"]
        options += ["--tags", "watch", "batch", "--stop-timeout", "10s"]
        options += ["--json-file", str(stats)]
        master = subprocess.run(
            [*locust, *options],
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        assert master.returncode == 0, master.stderr
        # A worker sleeps for the stop timeout before it reads that the master quits.
        assert worker.wait(RUN_SECONDS) == 0
    finally:
        worker.kill()
        worker.wait()
    entries = json.loads(stats.with_suffix(".json").read_text())
    named = {(entry["method"], entry["name"]): entry for entry in entries}
    assert named[("EFFECT", "submit due -> effect")]["num_requests"] > 0
    assert ("POST", "/tasks/{task_id}/cancel") not in named
    assert all(entry["num_failures"] == 0 for entry in entries)
    counts = [line for line in master.stderr.splitlines() if "Shape test updating to" in line]
    assert len(counts) > 2, "the ramp has steps"


def test_custom_options_are_explained() -> None:
    run = subprocess.run(
        [sys.executable, str(LOCUSTFILE)], capture_output=True, text=True, timeout=60, check=True
    )
    for option in ("--shape", "--watch-rate", "--effect-seconds", "--holdfast-api-key"):
        assert option in run.stdout


def test_shapes_and_pacing_of_users() -> None:
    """In a subprocess, since importing Locust patches the standard library."""
    code = """
import json
from loadtest import locustfile as l
share = lambda kind, limit: [round(l._share(kind, t * limit / 20, limit), 2) for t in range(21)]
pace = l.Pace(10)
pace.due -= 1  # a second behind
due = [pace.take() for _ in range(12)]
print(json.dumps({
    "ramp": share("ramp", 100), "spike": share("spike", 100), "soak": share("soak", 100),
    "gaps": [round(b - a, 6) for a, b in zip(due, due[1:])], "wait": pace.wait() > 0,
}))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    measured = json.loads(run.stdout)
    assert measured["ramp"][0] == 0.1
    assert measured["ramp"] == sorted(measured["ramp"])
    assert measured["ramp"][-1] == 1
    assert measured["spike"] == [0.2] * 8 + [1.0] * 4 + [0.2] * 9
    assert measured["soak"][0] == 0.1
    assert measured["soak"][2:] == [1.0] * 19
    # What was missed stays due, one by one: that is what "no coordinated omission" takes.
    assert set(measured["gaps"]) == {0.1}
    assert measured["wait"]
