"""Bad histories of metrics: S28 must report what differs from the log, and pass what it may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bad_histories import done, refused
from specimen import Specimen

from chaos.checker.invariants.registry import INVARIANTS
from chaos.history.history import History
from chaos.history.records import ArenaName, Event, Run, parse_instant
from chaos.history.rest import MetricSample, Scrape
from holdfast.model.lifecycle import Reason

PAUSE: dict[str, Any] = {"name": "stop", "fault": "pause", "target": "worker-1", "for": 1}
ENDED = {"queue": "default", "name": "chaos_ledger", "outcome": "succeeded"}


def sample(metric: str, value: float, /, **labels: str) -> MetricSample:
    return MetricSample(name=f"holdfast_{metric}", labels=labels, value=value)


def waited(run: Specimen) -> float:
    """Return the seconds from the dispatch to the claim of the only task."""
    at = {r.reason: parse_instant(r.at) for r in run.all_records() if isinstance(r, Event)}
    return (at[Reason.CLAIMED] - at[Reason.DISPATCHED]).total_seconds()


def honest(run: Specimen) -> dict[str, list[MetricSample]]:
    """Return what the processes of a run with one succeeded task and one read say."""
    queue = {"queue": "default"}
    return {
        "api-1": [
            sample("tasks_submitted_total", 1, queue="default", outcome="created"),
            sample("tasks_submitted_total", 7, queue="default", outcome="existing"),
            sample("http_requests_total", 1, method="GET", route="/tasks/{task_id}", status="200"),
        ],
        "scheduler-1": [sample("tasks_dispatched_total", 1, **queue)],
        "worker-1": [
            sample("attempts_claimed_total", 1, **queue),
            sample("attempts_finished_total", 1, **ENDED),
            sample("attempts_finished_total", 3, **ENDED | {"outcome": "stale"}),
            sample("tasks_finished_total", 1, **queue, outcome="succeeded"),
            sample("task_start_delay_seconds_count", 1, **queue),
            sample("task_queue_wait_seconds_count", 1, **queue),
            sample("task_queue_wait_seconds_sum", waited(run), **queue),
            sample("task_duration_seconds_count", 1, **queue),
            sample("event_loop_lag_seconds_count", 10),
            sample("event_loop_lag_seconds_sum", 0.2),
            sample("worker_slots", 20),
            sample("worker_slots_free", 20),
            sample("heartbeat_duration_seconds", 0.01),
        ],
    }


def scraped(
    run: Specimen, actor: str = "", name: str = "", add: float = 0.0, **labels: str
) -> History:
    """Return the history with what its processes say; ``add`` to one sample of ``actor``."""
    done(run)
    life = run.lives[0]
    read = run.op("get", {"task_id": life.task_id})
    run.complete(read, "ok", {"status": 200, "state": life.state, "task": life.body()})
    for each, samples in honest(run).items():
        said = [
            replace(s, value=s.value + add)
            if (each, s.name) == (actor, f"holdfast_{name}") and labels.items() <= s.labels.items()
            else s
            for s in samples
        ]
        run.records.append(Scrape(actor=each, at=run.now, status=200, samples=tuple(said)))
    return run.edited(lambda r: replace(r, arena=ArenaName.SIMULATION) if isinstance(r, Run) else r)


WRONG: list[tuple[str, str, float, dict[str, str], str]] = [
    ("api-1", "tasks_submitted_total", 1, {"outcome": "created"}, "= 2; the log has 1"),
    ("api-1", "tasks_submitted_total", -1, {"outcome": "created"}, "= 0; the log has 1"),
    ("api-1", "http_requests_total", 1, {}, "with 200 2 times; the clients saw 1"),
    ("scheduler-1", "tasks_dispatched_total", 1, {}, "= 2; the log has 1"),
    ("worker-1", "attempts_claimed_total", -1, {}, "= 0; the log has 1"),
    ("worker-1", "attempts_finished_total", 1, {"outcome": "succeeded"}, "= 2; the log has 1"),
    ("worker-1", "tasks_finished_total", -1, {}, "= 0; the log has 1"),
    ("worker-1", "task_queue_wait_seconds_sum", 0.1, {}, "waited"),
    ("worker-1", "event_loop_lag_seconds_sum", 1.0, {}, "lagged 1.2 s in 10 turns"),
    ("worker-1", "worker_slots_free", -1, {}, "19 of its 20 slots are free"),
    ("worker-1", "heartbeat_duration_seconds", -1.0, {}, "heartbeat_duration_seconds {} = -0.99"),
]


@pytest.mark.parametrize(("actor", "name", "add", "labels", "message"), WRONG)
def test_bad_history_is_refused(
    actor: str, name: str, add: float, labels: dict[str, str], message: str
) -> None:
    refused(scraped(Specimen(), actor, name, add, **labels), "S28", message)


def unread(run: Specimen, status: int, error: str) -> History:
    """Return the history in which the scheduler's metrics could not be read."""
    history = scraped(run)
    return History(
        replace(record, status=status, error=error, samples=())
        if isinstance(record, Scrape) and record.actor == "scheduler-1"
        else record
        for record in history.records
    )


@pytest.mark.parametrize(
    ("status", "error", "message", "excused"),
    [
        (0, "ConnectTimeout()", "does not answer at /metrics: ConnectTimeout()", True),
        (503, "", "answers with 503 at /metrics", False),
        (
            200,
            "not an exposition: x",
            "answers at /metrics with what is not an exposition: x",
            False,
        ),
    ],
)
def test_metrics_that_cannot_be_read_are_refused(
    status: int, error: str, message: str, excused: bool
) -> None:
    refused(unread(Specimen(), status, error), "S28", f"scheduler-1 {message}")
    run = Specimen(plan={"faults": [{**PAUSE, "at": 0.2}]})
    run.inject("stop", "pause", "worker-1")
    assert bool(INVARIANTS["S28"](unread(run, status, error))) is not excused


def test_metrics_that_agree_are_no_violation() -> None:
    assert INVARIANTS["S28"](scraped(Specimen())) == []


@pytest.mark.parametrize(
    ("actor", "name", "add", "wrong"),
    [
        ("worker-1", "attempts_claimed_total", -1, False),
        ("worker-1", "worker_slots_free", -1, False),
        ("worker-1", "event_loop_lag_seconds_sum", 5.0, False),
        ("api-1", "http_requests_total", 1, False),
        ("worker-1", "attempts_claimed_total", 1, True),
        ("worker-1", "heartbeat_duration_seconds", -1.0, True),
    ],
)
def test_under_faults_counters_may_only_be_too_low(
    actor: str, name: str, add: float, wrong: bool
) -> None:
    run = Specimen(plan={"faults": [{**PAUSE, "at": 0.2}]})
    run.inject("stop", "pause", "worker-1")
    assert bool(INVARIANTS["S28"](scraped(run, actor, name, add))) is wrong
