"""What the load test makes of numbers: curves, limits, stopwatch, plots, folded stacks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import httpx
import pytest

from loadtest.curves import curves
from loadtest.drain_results import Round
from loadtest.http_submitter import SubmittedTasks
from loadtest.locust_run import BATCH, EFFECT, SINGLE, LocustLoad, RequestStats
from loadtest.machine import Machine
from loadtest.plot import plot
from loadtest.process_stats import ROLES
from loadtest.processes import LoadtestError
from loadtest.record import Record, Recorder, TaskTimes
from loadtest.sampling import folded
from loadtest.soak import Sample, Soak, SoakOptions
from loadtest.stopwatch import Stopwatch
from loadtest.summary import MEANINGS, figures_of
from loadtest.thresholds import DEFAULT_FILE, judge, read_limits
from loadtest.transaction_results import BareRound, Durations, TransactionFigures
from observability.charts import quantile

LOAD = LocustLoad(users=1, spawn_rate=1, seconds=1, shape="steady", batch_size=10)


def task_times(due: float, finished: float | None, state: str = "SUCCEEDED") -> TaskTimes:
    return TaskTimes("id", created=due, due=due, finished=finished, state=state)


def test_curves_add_up_second_by_second() -> None:
    ahead = TaskTimes("id", created=100.5, due=4000.0, finished=101.0, state="CANCELLED")
    drawn = curves(
        [task_times(100.0, 100.4), task_times(100.9, 102.9), task_times(101.5, 101.6), ahead]
    )
    assert drawn.stored == (2, 1, 0)
    assert drawn.drained == (1, 1, 1)
    assert drawn.waiting == (1, 1, 0)
    assert drawn.latency_p99[2] == pytest.approx(2000)
    assert curves([]).stored == ()


def test_what_never_ends_waits_to_the_end() -> None:
    drawn = curves([task_times(10.0, 12.5), task_times(10.0, None, "QUEUED")])
    assert drawn.waiting == (2, 2, 1)


def test_quantiles_are_by_nearest_rank() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile(list(range(1, 101)), 0.99) == 99


def test_figures_of_a_run() -> None:
    record = Record(
        (
            task_times(0.0, 1.0),
            task_times(2.0, 4.0),
            task_times(3.0, None, "RUNNING"),
            task_times(4.0, 5.0, "FAILED"),
        ),
        complete=True,
    )
    tallies = {
        SINGLE: RequestStats(5, 1, {10.0: 5}, 10),
        BATCH: RequestStats(1, 0, {20.0: 1}, 20),
        EFFECT: RequestStats(4, 1, {100.0: 2, 300.0: 1, 900.0: 1}, 880),
    }
    figures, drawn = figures_of(record, tallies, LOAD)
    assert list(figures) == list(MEANINGS)
    assert figures["submitted_per_second"] == 1
    assert figures["drained_per_second"] == pytest.approx(3 / 5)
    assert (figures["unfinished"], figures["failed"]) == (1, 1)
    assert figures["missing"] == 4 + 10 - 4, "acknowledged but missing"
    assert (figures["effect_p50_ms"], figures["effect_max_ms"]) == (100, 880)
    assert figures["error_ratio"] == 0.2
    assert figures["drain_seconds"] == 1
    assert drawn.waiting[-1] == 1


def test_truncated_record_has_no_figure_of_missing_tasks() -> None:
    tallies = {SINGLE: RequestStats(5, 0, {1.0: 5}, 1)}
    assert figures_of(Record((), complete=False), tallies, LOAD)[0]["missing"] is None
    empty, _ = figures_of(Record((), complete=True), {}, LOAD)
    assert empty["drained_per_second"] is None
    assert empty["error_ratio"] is None


def test_limits_judge_and_what_was_not_measured_keeps_none(tmp_path: Path) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text("tasks: {min: 10}\nfailures: {max: 0}\neffect_p50_ms: {max: 5, min: 1}\n")
    limits = read_limits(file, list(MEANINGS))
    judged = judge(limits, {"tasks": 10, "failures": 1, "effect_p50_ms": None})
    assert [each.holds for each in judged] == [True, False, False, False]
    assert read_limits(DEFAULT_FILE, list(MEANINGS))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tusks: {min: 1}", "unknown figure 'tusks'"),
        ("tasks: 5", "needs {min"),
        ("tasks: {most: 1}", "is not a limit"),
        ("tasks: {min: true}", "is not a limit"),
        ("[", "cannot read"),
        ("- tasks", "figures with their limits"),
    ],
)
def test_wrong_limits_are_explained(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text(text)
    with pytest.raises(LoadtestError, match=complaint):
        read_limits(file, list(MEANINGS))


def test_the_stopwatch_starts_when_a_tenth_is_done() -> None:
    stopwatch = Stopwatch(100)
    assert not stopwatch.record(0.0, 0)
    assert not stopwatch.record(1.0, 9)
    assert not stopwatch.record(2.0, 20)
    assert stopwatch.record(4.0, 100)
    assert stopwatch.rate == 40
    short = Stopwatch(100)
    short.record(1.0, 0)
    assert short.record(1.5, 100)
    assert short.rate == 200
    assert math.isnan(short.cpu_ms_per_task)
    stuck = Stopwatch(100)
    stuck.record(0.0, 50)
    with pytest.raises(LoadtestError, match="no progress for 60 s: 50 of 100"):
        stuck.record(61.0, 50)


def test_a_plot_has_round_ticks_gaps_and_few_points() -> None:
    drawn = plot("x", "ms", [("a", [0, 37, None, 90]), ("b", [])])
    assert [tick.text for tick in drawn.up] == ["0", "25", "50", "75", "100"]
    assert drawn.lines[0].path.count("M") == 2
    assert drawn.lines[1].path == ""
    long = plot("x", "ms", [("a", [float(n % 7) for n in range(10_000)])])
    assert long.lines[0].path.count("L") <= 400
    assert [tick.text for tick in long.across][:2] == ["0 min", "30 min"]
    assert plot("x", "ms", [("a", [])]).across == ()


def test_folded_stacks_are_added_up_by_function() -> None:
    text = (
        "main (/x/lib/python3.11/app.py:3);work (/x/site-packages/lib/w.py:7) 3\n"
        "main (/x/lib/python3.11/app.py:4) 1\n"
    )
    sampled = folded("worker", text)
    assert sampled.samples == 4
    first, second = sampled.functions
    assert (first.name, first.own, first.total) == ("work (lib/w.py)", 0.75, 0.75)
    assert (second.name, second.own, second.total) == ("main (app.py)", 0.25, 1.0)
    assert folded("worker", "").functions == []


def test_payloads_have_the_size_that_was_asked_for() -> None:
    for size in (30, 256, 8000):
        payload = SubmittedTasks.sized(size).body(12345)["payload"]
        assert len(json.dumps(payload, separators=(",", ":"))) == size
    assert SubmittedTasks().body(1) == {"name": "echo", "payload": {"number": 1}}


def test_figures_of_transactions_are_ratios_of_a_round() -> None:
    cpu = {"worker": 0.3, "postgres": 0.2}
    figures = TransactionFigures(
        holdfast=[Round(10, 1000, 600, 0.5, cpu), Round(10, 1000, 900, 0.5, cpu)],
        bare=[BareRound(10, 1000, {"other": 0.1}), BareRound(10, 1000, {"other": 0.1})],
        sql=Durations.of([0.002, 0.001, 0.004]),
    )
    assert figures.ratios() == [0.6, 0.9]
    text = "\n".join(figures.lines())
    assert "0.75 (0.60..0.90)" in text
    assert "bare SQL: p50 2.00 ms, p99 4.00 ms over 3 transactions" in text
    assert figures.as_json()["ratio"] == [0.6, 0.9]


def test_growth_compares_the_last_quarter_with_the_second() -> None:
    table = {"table_mb": 1.0, "index_mb": 1.0, "dead": 0.0, "updates": 4.0, "hot_updates": 1.0}

    def sample(n: int) -> Sample:
        tasks = {**table, "table_mb": float(n)}
        tables = {"tasks": tasks, "requests": table, "task_events": table, "effects": table}
        return Sample(n, dict.fromkeys(ROLES, 100.0), tables, 0)

    samples = [sample(n) for n in range(8)]
    soak = Soak(Machine(2, 0, "3", "Linux"), SoakOptions(), 10, 0.0, samples)
    assert soak.growth()["memory worker"] == 1
    assert soak.growth()["size tasks"] == pytest.approx(7.5 / 3.5)
    assert not soak.flat
    assert soak.hot_share == 0.25
    assert any("size tasks" in line and "MISSED" in line for line in soak.lines())


def task(number: int, run: str, state: str = "SUCCEEDED") -> dict[str, object]:
    stamp = f"2026-01-01T00:00:{number:02d}Z"
    finished = stamp if state == "SUCCEEDED" else None
    base = {"id": str(number), "state": state, "payload": {"run": run}}
    return {**base, "created_at": stamp, "run_at": stamp, "finished_at": finished}


async def test_a_record_is_read_page_by_page_back_to_the_beginning_of_the_run() -> None:
    """Newest first; neighbours' tasks are left out; nothing older than the run is asked for."""
    pages = {
        None: ([task(50, "me"), task(49, "you"), task(48, "me", "QUEUED")], "2"),
        "2": ([task(40, "me"), task(3, "me")], "3"),
    }
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        cursor = request.url.params.get("cursor")
        asked.append(cursor)
        tasks, following = pages[cursor]
        content = {"tasks": tasks, "next_cursor": following}
        return httpx.Response(200, json=content, headers={"date": "Thu, 01 Jan 2026 00:00:30 GMT"})

    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        recorder = Recorder(client, "me", tasks_max=100)
        await recorder.begin()
        record = await recorder.read()
        assert [each.id for each in record.tasks] == ["3", "40", "48", "50"]
        assert record.complete
        assert asked == [None, None, "2"]
        assert await recorder.waiting() == 1
        short = await Recorder(client, "me", tasks_max=2).read()
        assert [each.id for each in short.tasks] == ["48", "50"]
        assert not short.complete
